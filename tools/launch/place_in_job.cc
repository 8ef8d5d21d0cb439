#include "launch/place_in_job.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

namespace kolo::launch {
namespace {

/// Set by kolo::init(), in the environment of each rank.
constexpr const char* kRankMark = "KOLO_RANK_PROCESS";

bool tells_place(std::string_view name) {
  constexpr std::array<std::string_view, 5> kBegins = {"OMPI_COMM_WORLD_", "OMPI_MCA_orte_",
                                                       "OMPI_MCA_ess", "PMI_", "PMIX_"};
  constexpr std::array<std::string_view, 13> kNames = {"OMPI_APP_CTX_NUM_PROCS",
                                                       "OMPI_ARGV",
                                                       "OMPI_COMMAND",
                                                       "OMPI_FILE_LOCATION",
                                                       "OMPI_FIRST_RANKS",
                                                       "OMPI_MCA_initial_wdir",
                                                       "OMPI_MCA_mpi_oversubscribe",
                                                       "OMPI_MCA_pmix",
                                                       "OMPI_MCA_shmem_RUNTIME_QUERY_hint",
                                                       "OMPI_NUM_APP_CTX",
                                                       "OMPI_UNIVERSE_SIZE",
                                                       "PRTE_LAUNCHED",
                                                       kRankMark};
  if (name.starts_with("PMIX_MCA_")) return false;  // a user's settings
  return std::ranges::find(kNames, name) != kNames.end() ||
         std::ranges::any_of(kBegins, [name](auto begin) { return name.starts_with(begin); });
}

bool is_set(const char* name) { return std::getenv(name) != nullptr; }

}  // namespace

void forget_place_in_job() {
  const bool is_rank = is_set("OMPI_COMM_WORLD_RANK") || is_set("PMIX_RANK") || is_set("PMI_RANK");
  if (!is_rank) return;
  if (is_set(kRankMark)) unsetenv("KOLO_TIMELINE");
  std::vector<std::string> names;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view variable(*entry);
    const std::string_view name = variable.substr(0, variable.find('='));
    if (tells_place(name)) names.emplace_back(name);
  }
  for (const std::string& name : names) unsetenv(name.c_str());
}

}  // namespace kolo::launch
