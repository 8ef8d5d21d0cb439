// One rank of a program whose start start_test.py looks at: its first argument says how it starts.

#include <kolo/kolo.h>
#include <kolo/mpi.h>
#include <torch/types.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

namespace {

/// The rank that does not do as the others.
constexpr int kOther = 1;
/// Long enough for the others to give up, which ends the job.
constexpr unsigned kTooLong = 50;

std::string argument;  // the second one

void print(const std::string& line) {
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

void reduce_and_report() {
  const auto sum = kolo::allreduce(torch::ones({3}), {.name = "x", .op = kolo::ReduceOp::Sum});
  print(c10::str("rank ", kolo::rank(), " of ", kolo::size(), ", sum ", sum[0].item<int>()));
}

int start_mpi() {
  int level = 0;
  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &level);
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  return rank;
}

void plain() {
  kolo::init();
  reduce_and_report();
}

/// One rank does not come; MPI is the program's.
void absent() {
  const int rank = start_mpi();
  MPI_Barrier(MPI_COMM_WORLD);
  if (rank == kOther) sleep(kTooLong);
  plain();
}

/// One rank does not come, before MPI has started.
void absent_from_mpi() {
  if (std::atoi(std::getenv("OMPI_COMM_WORLD_RANK")) == kOther) sleep(kTooLong);
  plain();
}

/// One rank comes when the others have been reported to wait.
void late() {
  const int rank = start_mpi();
  MPI_Barrier(MPI_COMM_WORLD);
  if (rank == kOther) sleep(3);
  kolo::init();
  reduce_and_report();
  kolo::shutdown();
  MPI_Finalize();
}

/// Ranks 0 and 1 are a job, and those from 2 on are another one, or none.
void part() {
  const int rank = start_mpi();
  MPI_Comm ranks = MPI_COMM_NULL;
  const bool first = rank < 2;
  MPI_Comm_split(MPI_COMM_WORLD, first || argument == "both" ? int{first} : MPI_UNDEFINED, -rank,
                 &ranks);
  if (ranks != MPI_COMM_NULL) {
    kolo::init(ranks);
    MPI_Comm_free(&ranks);
    reduce_and_report();
    kolo::shutdown();
  } else {
    try {
      kolo::init(ranks);
    } catch (const kolo::Error& error) {
      print(error.what());
    }
  }
  MPI_Finalize();
}

/// Rank 0 starts a program meanwhile.
void nested() {
  kolo::init();
  if (kolo::rank() == 0) {
    const int status = std::system(argument.c_str());
    print(c10::str("the program has ended with ", WIFEXITED(status) ? WEXITSTATUS(status) : -1));
  }
  reduce_and_report();
}

/// One rank does not call shutdown().
void stays() {
  kolo::init();
  reduce_and_report();
  if (kolo::rank() == kOther) sleep(kTooLong);
  kolo::shutdown();
}

/// One rank ends, and the others start again.
void again() {
  kolo::init();
  reduce_and_report();
  const bool ends = kolo::rank() == kOther;
  kolo::shutdown();
  if (!ends) kolo::init();
}

int run(const std::string& start) {
  const std::map<std::string, void (*)()> starts = {
      {"plain", plain}, {"absent", absent}, {"absent-from-mpi", absent_from_mpi},
      {"late", late},   {"part", part},     {"nested", nested},
      {"stays", stays}, {"again", again}};
  starts.at(start)();
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  if (count > 2) argument = arguments[2];
  try {
    return run(count > 1 ? arguments[1] : "plain");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}
