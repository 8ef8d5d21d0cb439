#include "mpi/start_watch.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdlib>
#include <fstream>
#include <set>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "base/config.h"
#include "base/threads.h"

namespace kolo::core::mpi {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

/// How often it looks who has come, about.
constexpr std::chrono::milliseconds kLook{500};

/// Of the sockets of a job's ranks, without the rank.
std::string name_begins(const Launcher& launcher) {
  return fmt::format("kolo-start-{}-{}-", getuid(), launcher.job);
}

/// A socket with a name that nobody connects to. -1: none.
int open_named_socket(const std::string& name) {
  sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
  if (name.size() + 1 > sizeof(address.sun_path)) return -1;
  const int made = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (made < 0) return -1;
  std::ranges::copy(name, address.sun_path + 1);  // a zero first: no file
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  if (::bind(made, reinterpret_cast<const sockaddr*>(&address), length) == 0) return made;
  ::close(made);
  return -1;
}

/// The ranks of this host whose sockets are there.
std::set<int> ranks_here(const Launcher& launcher) {
  const std::string begin = fmt::format("@{}", name_begins(launcher));
  std::set<int> ranks;
  std::ifstream sockets("/proc/net/unix");
  for (std::string line; std::getline(sockets, line);) {
    const auto place = line.find(begin);
    if (place == std::string::npos) continue;
    int rank = 0;
    const char* const digits = line.data() + place + begin.size();
    if (std::from_chars(digits, line.data() + line.size(), rank).ec == std::errc{}) {
      ranks.insert(rank);
    }
  }
  return ranks;
}

std::string who_is_missing(const Launcher& launcher, const std::set<int>& here) {
  if (launcher.size == 0 || here.empty()) return {};
  if (!launcher.one_host) {
    return fmt::format(" Of the {} ranks, {} have come on this host.", launcher.size,
                       fmt::join(here, ", "));
  }
  std::vector<int> missing;
  for (int rank = 0; rank < launcher.size; ++rank) {
    if (!here.contains(rank)) missing.push_back(rank);
  }
  if (missing.empty()) return {};
  return fmt::format(" Rank(s) {} have not called it.", fmt::join(missing, ", "));
}

}  // namespace

StartWatch::StartWatch(const Patience& patience)
    : patience_(patience), launcher_(launcher_of_this_process()) {
  const bool warns = patience.warn_after.count() > 0 || patience.give_up_after.count() > 0;
  if (!warns || !launcher_ || launcher_->size == 1) return;
  if (!launcher_->job.empty()) {
    socket_ = open_named_socket(fmt::format("{}{}", name_begins(*launcher_), launcher_->rank));
  }
  // Without one: it only watches, and what needs threads says so later.
  Result<std::thread> thread = start_thread("kolo-start", [this] { run(); });
  if (thread.ok()) thread_ = std::move(thread).value();
}

StartWatch::~StartWatch() {
  {
    const std::lock_guard lock(mutex_);
    has_ended_ = true;
  }
  ended_.notify_one();
  if (thread_.joinable()) thread_.join();
  if (socket_ >= 0) ::close(socket_);
}

void StartWatch::run() {
  const Clock::time_point begin = Clock::now();
  Seconds warning = patience_.warn_after;
  std::unique_lock lock(mutex_);
  while (true) {
    Seconds next = warning;
    const Seconds last = patience_.give_up_after;
    if (last.count() > 0 && (next.count() == 0 || last < next)) next = last;
    const auto moment = begin + std::chrono::duration_cast<Clock::duration>(next);
    if (ended_.wait_until(lock, std::min(moment, Clock::now() + kLook),
                          [this] { return has_ended_; })) {
      return;
    }
    // Others may be the first to give up: they have come all the same.
    here_.merge(ranks_here(*launcher_));
    if (Clock::now() < moment) continue;
    const bool is_over = last.count() > 0 && next == last;
    report(Clock::now() - begin, is_over);
    if (is_over) std::_Exit(EXIT_FAILURE);
    warning += patience_.warn_after;
  }
}

/// One rank of the host speaks while all wait; each says why it ends.
void StartWatch::report(Seconds waited, bool is_over) const {
  const std::string missing = who_is_missing(*launcher_, here_);
  if (is_over) {
    fmt::print(stderr,
               "kolo::init(): rank {} has given up after {:.1f} s (KOLO_STALL_ABORT_SECONDS) in "
               "which MPI waited for the other processes that {} has started.{}\n",
               launcher_->rank, waited.count(), launcher_->name, missing);
  } else if (here_.empty() || *here_.begin() == launcher_->rank) {
    patience_.warn(
        fmt::format("stalled: kolo::init() has waited {:.1f} s for the other processes that {} has "
                    "started, while MPI "
                    "starts.{} KOLO_STALL_ABORT_SECONDS ends such a wait",
                    waited.count(), launcher_->name, missing));
  }
}

}  // namespace kolo::core::mpi
