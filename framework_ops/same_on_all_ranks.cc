#include "same_on_all_ranks.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <kolo/error.h>
#include <kolo/init.h>
#include <kolo/ops.h>
#include <torch/torch.h>

#include <algorithm>
#include <cstring>
#include <sstream>

namespace kolo::detail {
namespace {

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

}  // namespace

void require_same_on_all_ranks(const std::string& name, const std::string& what,
                               const std::vector<std::string>& lines, const std::string& refusal,
                               const ProcessSet& process_set) {
  constexpr char kEnd = '\f';
  // The rank, for it is not known who the members are.
  const std::string own = fmt::format("{}\n{}\n{}{}", rank(), refusal, fmt::join(lines, "\n"), kEnd);
  torch::Tensor bytes = torch::empty({static_cast<std::int64_t>(own.size())}, torch::kUInt8);
  std::memcpy(bytes.data_ptr(), own.data(), own.size());
  bytes = allgather(bytes, {.name = name, .process_set = process_set});
  const std::string all(static_cast<const char*>(bytes.data_ptr()),
                        static_cast<std::size_t>(bytes.numel()));

  const std::vector<std::string> texts = split(all, kEnd);
  for (const std::string& text : texts) {
    const std::vector<std::string> other = split(text, '\n');
    if (other.size() > 1 && !other[1].empty()) {
      throw Error(fmt::format("on rank {}: {}", other[0], other[1]));
    }
  }
  const std::vector<std::string> first = split(texts.front(), '\n');
  for (const std::string& text : texts) {
    const std::vector<std::string> other = split(text, '\n');
    const std::size_t most = std::max(first.size(), other.size());
    for (std::size_t i = 2; i < most; ++i) {
      const auto line = [i](const std::vector<std::string>& of) {
        return i < of.size() ? of[i] : std::string("nothing");
      };
      if (line(first) == line(other)) continue;
      throw Error(fmt::format("{} differ between ranks: number {} is {} on rank {}, but {} on rank {}",
                              what, i - 1, line(first), first.front(), line(other), other.front()));
    }
  }
}

}  // namespace kolo::detail
