#include "engine/circle.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace kolo::core {
namespace {

/// Of ranks, and of groups of ranks that do the same, in a message.
constexpr std::size_t kMostNamed = 8;

bool same_operation(const AwaitedOperation& a, const AwaitedOperation& b) {
  if (a.channel != b.channel || a.name != b.name) return false;
  return !a.name.empty() || a.number == b.number;
}

/// "rank 1", "ranks 1, 2", "ranks 0, 1, 2, 3, 4, 5, 6, 7 and 24 others".
std::string name_ranks(const std::vector<int>& ranks) {
  const std::size_t named = std::min(ranks.size(), kMostNamed);
  std::string words = fmt::format(
      "rank{} {}", ranks.size() == 1 ? "" : "s",
      fmt::join(ranks.begin(), ranks.begin() + static_cast<std::ptrdiff_t>(named), ", "));
  if (named < ranks.size()) words += fmt::format(" and {} others", ranks.size() - named);
  return words;
}

}  // namespace

void CircleDetector::hear(int rank, Blocked blocked) { blocked_[rank] = std::move(blocked); }

void CircleDetector::hear(int rank, const CircleAnswer& answer) {
  const auto asked = inquiry_.asked.find(rank);
  if (answer.number != inquiry_.number || asked == inquiry_.asked.end()) return;
  if (answer.waits && answer.lacks.size() == inquiry_.operations.size()) {
    inquiry_.lacks[rank] = answer.lacks;
  } else if (const auto found = blocked_.find(rank);
             found != blocked_.end() && found->second.epoch == asked->second) {
    forget(rank);
  }
}

/// Those of these ranks that can go on only if others of them do.
std::set<int> CircleDetector::stuck(std::set<int> ranks, const MayLack& may_lack) const {
  const auto goes_on = [&](int rank) {
    const std::vector<AwaitedOperation>& operations = blocked_.at(rank).operations;
    for (std::size_t index = 0; index < operations.size(); ++index) {
      const bool in_vain = std::ranges::any_of(operations[index].ranks, [&](int member) {
        return member != rank && ranks.contains(member) && may_lack(member, rank, index);
      });
      if (!in_vain) return true;
    }
    return false;
  };
  while (std::erase_if(ranks, goes_on) > 0) {
  }
  return ranks;
}

std::vector<std::pair<int, CircleQuestion>> CircleDetector::ask() {
  if (!blocked_.contains(rank_)) return {};
  std::set<int> ranks;
  for (const auto& [rank, blocked] : blocked_) ranks.insert(rank);
  // Who waits for an operation has submitted it. What else they have, they say when they are asked.
  const std::set<int> circle = stuck(ranks, [this](int member, int rank, std::size_t index) {
    const AwaitedOperation& operation = blocked_.at(rank).operations[index];
    return std::ranges::none_of(blocked_.at(member).operations, [&](const AwaitedOperation& own) {
      return same_operation(own, operation);
    });
  });
  if (!circle.contains(rank_)) return {};
  Inquiry inquiry{
      .number = inquiry_.number + 1, .asked = {}, .operations = {}, .first = {}, .lacks = {}};
  for (const int rank : circle) {
    const Blocked& blocked = blocked_.at(rank);
    inquiry.asked[rank] = blocked.epoch;
    inquiry.first[rank] = inquiry.operations.size();
    inquiry.operations.insert(inquiry.operations.end(), blocked.operations.begin(),
                              blocked.operations.end());
  }
  if (inquiry.asked == inquiry_.asked) return {};
  inquiry_ = std::move(inquiry);
  std::vector<std::pair<int, CircleQuestion>> questions;
  for (const auto& [rank, epoch] : inquiry_.asked) {
    if (rank == rank_) continue;
    questions.emplace_back(rank, CircleQuestion{inquiry_.number, epoch, inquiry_.operations});
  }
  return questions;
}

std::optional<std::string> CircleDetector::find(const Lacks& lacks) const {
  std::map<int, std::vector<std::uint8_t>> answers = inquiry_.lacks;
  for (const AwaitedOperation& operation : inquiry_.operations) {
    answers[rank_].push_back(lacks(operation) ? 1 : 0);
  }
  std::set<int> confirmed;
  for (const auto& [rank, epoch] : inquiry_.asked) {
    const auto found = blocked_.find(rank);
    const bool waits = found != blocked_.end() && found->second.epoch == epoch;
    if (waits && answers.contains(rank)) confirmed.insert(rank);
  }
  const std::set<int> circle = stuck(confirmed, [&](int member, int rank, std::size_t index) {
    return answers.at(member)[inquiry_.first.at(rank) + index] != 0;
  });
  if (circle.empty()) return std::nullopt;
  return describe(circle);
}

std::string CircleDetector::describe(const std::set<int>& circle) const {
  std::vector<std::pair<std::string, std::vector<int>>> groups;
  for (const int rank : circle) {
    std::vector<std::string> words;
    for (const AwaitedOperation& operation : blocked_.at(rank).operations) {
      words.push_back(operation.words);
    }
    const std::string joined = fmt::format("{}", fmt::join(words, " and "));
    auto group = std::ranges::find(groups, joined, &decltype(groups)::value_type::first);
    if (group == groups.end()) group = groups.insert(group, {joined, {}});
    group->second.push_back(rank);
  }
  std::vector<std::string> sentences;
  for (const auto& [words, ranks] : groups) {
    if (sentences.size() == kMostNamed) {
      sentences.push_back("others elsewhere");
      break;
    }
    const std::string_view verb = !sentences.empty() ? "" : ranks.size() == 1 ? "is " : "are ";
    sentences.push_back(fmt::format("{} {}{}", name_ranks(ranks), verb, words));
  }
  return fmt::format(
      "the ranks wait for each other: {}. Neither can go on: every rank of a process set must call "
      "the "
      "same operations, and run the same steps. Has one more batches than another, or skipped one, "
      "or "
      "stopped early? Let them decide that together, or give them equal shards",
      fmt::join(sentences, ", "));
}

}  // namespace kolo::core
