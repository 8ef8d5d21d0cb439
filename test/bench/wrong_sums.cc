// What makes kolo-bench-wrong of kolo-bench: all-reduces that go wrong. They are right twice, which
// is how often Kolo negotiates a name that recurs, and then leave every rank its own values.

#include <kolo/ops.h>
#include <mpi.h>
#include <torch/torch.h>

namespace {

constexpr int kRightCalls = 2;

}  // namespace

// Instead of libkolo's.
namespace kolo {

torch::Tensor& allreduce_(torch::Tensor& tensor, const AllreduceOptions& options) {
  static int calls = 0;
  const torch::Tensor sum = allreduce_async(tensor, options).result();
  if (++calls <= kRightCalls) tensor.copy_(sum);
  return tensor;
}

/// New names stay right.
Work allreduce_async_(torch::Tensor& tensor, const AllreduceOptions& options) {
  Work work = allreduce_async(tensor, options);
  if (options.name.starts_with("new.")) tensor.copy_(work.result());
  return work;
}

}  // namespace kolo

// Instead of MPI's, which has it under a second name.
extern "C" int MPI_Allreduce(const void* input, void* output, int count, MPI_Datatype type,
                             MPI_Op op, MPI_Comm comm) {
  static int sums = 0;
  if (op == MPI_SUM && ++sums > kRightCalls) return MPI_SUCCESS;
  return PMPI_Allreduce(input, output, count, type, op, comm);
}
