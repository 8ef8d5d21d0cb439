#include "wire/messages.h"

#include <fmt/format.h>

#include "base/names.h"

namespace kolo::core {

std::string label(const Request& request) {
  return fmt::format("{} '{}'", to_string(request.kind), shortened(request.name));
}

std::string spoken(const Request& request) {
  const auto kind = [&request]() -> std::string_view {
    switch (request.kind) {
      case CollectiveKind::Allreduce:
        return "all-reduce";
      case CollectiveKind::Broadcast:
        return "broadcast";
      case CollectiveKind::Allgather:
        return "all-gather";
      case CollectiveKind::Reducescatter:
        return "reduce-scatter";
      case CollectiveKind::Alltoall:
        return "all-to-all";
      case CollectiveKind::Barrier:
        return "barrier";
      case CollectiveKind::AddProcessSet:
        return "add_process_set";
    }
    std::abort();
  };
  return fmt::format("in {} '{}'", kind(), shortened(request.name));
}

}  // namespace kolo::core
