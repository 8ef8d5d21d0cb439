#include "agreement.h"

#include <c10/util/Exception.h>
#include <fmt/format.h>
#include <kolo/init.h>
#include <kolo/ops.h>

#include <cstring>
#include <stdexcept>
#include <vector>

#include "options.h"
#include "recipe.h"

namespace resnet_example {
namespace {

enum class Kind : char { Answer = 'a', Error = 'e', Usage = 'u' };

struct Outcome {
  Kind kind = Kind::Answer;
  std::string text;
};

Outcome outcome_of(const std::function<std::string()>& work) {
  try {
    return {Kind::Answer, work()};
  } catch (const UsageError& e) {
    return {Kind::Usage, e.what()};
  } catch (const c10::Error& e) {
    return {Kind::Error, e.what_without_backtrace()};
  } catch (const std::exception& e) {
    return {Kind::Error, e.what()};
  }
}

/// The outcomes of all ranks. They travel as bytes, each one ended by a zero.
std::vector<Outcome> gather(const Outcome& mine) {
  std::string bytes = static_cast<char>(mine.kind) + mine.text;
  bytes.resize(std::strlen(bytes.c_str()) + 1);
  const auto size = static_cast<std::int64_t>(bytes.size());
  const torch::Tensor all = kolo::allgather(torch::from_blob(bytes.data(), {size}, torch::kUInt8));

  std::vector<Outcome> outcomes;
  const char* position = static_cast<const char*>(all.data_ptr());
  for (int rank = 0; rank < kolo::size(); ++rank) {
    const std::string text = position;
    outcomes.push_back({static_cast<Kind>(text.at(0)), text.substr(1)});
    position += text.size() + 1;
  }
  return outcomes;
}

}  // namespace

void agree(const std::string& what, const std::function<std::string()>& work) {
  const Outcome mine = outcome_of(work);
  const std::vector<Outcome> all = gather(mine);
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    if (all[rank].kind == Kind::Answer) continue;
    const Outcome& failed = mine.kind == Kind::Answer ? all[rank] : mine;
    const std::string text =
        mine.kind == Kind::Answer ? fmt::format("rank {}: {}", rank, failed.text) : failed.text;
    if (failed.kind == Kind::Usage) throw UsageError(text);
    throw std::runtime_error(text);
  }
  for (std::size_t rank = 1; rank < all.size(); ++rank) {
    if (all[rank].text == all[0].text) continue;
    throw std::runtime_error(fmt::format(
        "{} differ between ranks: {}", what,
        differing_lines(all[0].text, "rank 0", all[rank].text, fmt::format("rank {}", rank))));
  }
}

void on_rank_0(const std::function<void()>& work) {
  agree("", [&]() -> std::string {
    if (kolo::rank() == 0) work();
    return "";
  });
}

}  // namespace resnet_example
