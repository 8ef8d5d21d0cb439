#include "wire/messages.h"

#include <fmt/format.h>

namespace kolo::core {

std::string label(const Request& request) {
  return fmt::format("{} '{}'", to_string(request.kind), request.name);
}

}  // namespace kolo::core
