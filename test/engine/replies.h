#pragma once

/// What members of a process set ask for, and what each is told.

#include <memory>
#include <utility>
#include <vector>

#include "engine/negotiator.h"

namespace kolo::core {

inline std::shared_ptr<const RequestList> list_of(std::vector<Request> requests) {
  return std::make_shared<const RequestList>(RequestList{kWorldChannel, std::move(requests)});
}

/// In the order in which it hears it, by index of the member.
inline std::vector<std::vector<Response>> by_member(const Negotiator::Replies& replies) {
  std::vector<std::vector<Response>> heard;
  for (const std::vector<Response>& to_one : replies.to_one) {
    heard.push_back(replies.to_all);
    heard.back().insert(heard.back().end(), to_one.begin(), to_one.end());
  }
  return heard;
}

}  // namespace kolo::core
