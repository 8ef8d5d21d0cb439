#include "engine/blocking_allreduce.h"

#include <algorithm>
#include <string>

namespace kolo::core {

bool BlockingAllreduce::is(const Request& request) const {
  return request.kind == CollectiveKind::Allreduce && request.device == DeviceType::Cpu &&
         request.dtype == dtype && request.op == op && request.prescale == prescale &&
         request.postscale == postscale && std::ranges::equal(request.shape, shape);
}

Submission BlockingAllreduce::submission() const {
  return {.channel = process_set,
          .request = {.name = std::string(name),
                      .kind = CollectiveKind::Allreduce,
                      .dtype = dtype,
                      .op = op,
                      .prescale = prescale,
                      .postscale = postscale,
                      .shape = Shape(shape.begin(), shape.end())},
          .input = memory,
          .output = memory,
          .keepalive = owner(),
          .awaited = true};
}

}  // namespace kolo::core
