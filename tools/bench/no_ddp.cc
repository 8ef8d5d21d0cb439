#include <stdexcept>

#include "bench/reducers.h"

namespace kolo::bench {

const char* why_no_ddp() {
  return "this kolo-bench was built without ddp, which needs Gloo's headers (libgloo-dev) and "
         "LibTorch 1.13, or 2.11 or later: install them, then configure and build again";
}

std::unique_ptr<Reducer> make_ddp_reducer(const Ranks& /*ranks*/,
                                          bool /*gradient_as_bucket_view*/) {
  throw std::logic_error(why_no_ddp());
}

}  // namespace kolo::bench
