#include "scalars.h"

#include <kolo/scalars.h>
#include <torch/torch.h>

namespace kolo {

double sum(double value, const ProcessSet& process_set) {
  return detail::reduce_number(value, "kolo::sum", ReduceOp::Sum, process_set);
}

double mean(double value, const ProcessSet& process_set) {
  return detail::reduce_number(value, "kolo::mean", ReduceOp::Average, process_set);
}

bool any(bool value, const ProcessSet& process_set) {
  return detail::reduce_number(value, "kolo::any", ReduceOp::Max, process_set);
}

bool all(bool value, const ProcessSet& process_set) {
  return detail::reduce_number(value, "kolo::all", ReduceOp::Min, process_set);
}

}  // namespace kolo
