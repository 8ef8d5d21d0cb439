#include "same_on_all_ranks.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <kolo/error.h>

#include <algorithm>
#include <sstream>

#include "gather_texts.h"

namespace kolo::detail {
namespace {

/// What a rank says begins with one of these.
constexpr char kRefuses = '!';
constexpr char kHasLines = '=';

std::optional<LineDifference> compare(const RankText& first, const RankText& other) {
  // As nearly always: then there is nothing to split.
  if (first.text == other.text) return std::nullopt;
  const std::vector<std::string> a = split_lines(first.text.substr(1));
  const std::vector<std::string> b = split_lines(other.text.substr(1));
  const auto line = [](const std::vector<std::string>& of, std::size_t i) {
    return i < of.size() ? of[i] : std::string("nothing");
  };
  for (std::size_t i = 0; i < std::max(a.size(), b.size()); ++i) {
    if (line(a, i) == line(b, i)) continue;
    return LineDifference{.line = i,
                          .value = line(a, i),
                          .other_value = line(b, i),
                          .rank = first.rank,
                          .other_rank = other.rank};
  }
  return std::nullopt;
}

std::optional<LineDifference> compare(const std::vector<RankText>& texts) {
  for (const RankText& other : texts) {
    if (auto found = compare(texts.front(), other)) return found;
  }
  return std::nullopt;
}

std::string in_one(const std::vector<std::string>& lines) {
  return kHasLines + fmt::format("{}", fmt::join(lines, "\n"));
}

}  // namespace

std::vector<std::string> split_lines(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

std::optional<LineDifference> find_difference(const std::string& name,
                                              const std::vector<std::string>& lines,
                                              const ProcessSet& process_set) {
  return compare(gather_texts(name, in_one(lines), process_set));
}

std::vector<int> require_same_on_all_ranks(const std::string& name, const std::string& what,
                                           const std::vector<std::string>& lines,
                                           const std::string& refusal,
                                           const ProcessSet& process_set) {
  const std::string own = refusal.empty() ? in_one(lines) : kRefuses + refusal;
  const std::vector<RankText> texts = gather_texts(name, own, process_set);
  std::vector<int> ranks;
  for (const auto& [rank, text] : texts) {
    if (text.front() == kRefuses) {
      throw Error(fmt::format("on rank {}: {}", rank, text.substr(1)));
    }
    ranks.push_back(rank);
  }
  if (const auto found = compare(texts)) {
    throw Error(fmt::format(
        "{} differ between ranks: number {} is {} on rank {}, but {} on rank {}", what,
        found->line + 1, found->value, found->rank, found->other_value, found->other_rank));
  }
  return ranks;
}

}  // namespace kolo::detail
