#include "wire/messages.h"

#include <fmt/format.h>

#include "base/names.h"

namespace kolo::core {

std::string label(const Request& request) {
  return fmt::format("{} '{}'", to_string(request.kind), shortened(request.name));
}

}  // namespace kolo::core
