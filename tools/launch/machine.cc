#include "launch/machine.h"

#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>
#include <string_view>
#include <utility>

#include "base/cpu_quota.h"
#include "launch/files.h"
#include "launch/usage_error.h"
#include "launch/values.h"

namespace kolo::launch {
namespace {

/// The numbers of the CPUs that this process may use.
std::vector<int> usable_cpus() {
  std::array<cpu_set_t, 8> mask{};  // 8192 CPUs
  std::vector<int> cpus;
  if (sched_getaffinity(0, sizeof(mask), mask.data()) != 0) return {0};
  for (int cpu = 0; cpu < CPU_SETSIZE * static_cast<int>(mask.size()); ++cpu) {
    if (CPU_ISSET_S(static_cast<std::size_t>(cpu), sizeof(mask), mask.data())) cpus.push_back(cpu);
  }
  return cpus;
}

/// Into how many packages of equal size the CPUs fall; 0 when that cannot be told, or when the
/// machine has others: mpirun does not see a mask set by taskset and would bind beyond it.
int count_packages(const std::vector<int>& cpus) {
  if (std::cmp_not_equal(cpus.size(), sysconf(_SC_NPROCESSORS_ONLN))) return 0;
  std::map<int, std::size_t> sizes;
  for (const int cpu : cpus) {
    std::ifstream file(
        fmt::format("/sys/devices/system/cpu/cpu{}/topology/physical_package_id", cpu));
    int package = -1;
    if (!(file >> package) || package < 0) return 0;
    ++sizes[package];
  }
  for (const auto& [package, size] : sizes) {
    if (size * sizes.size() != cpus.size()) return 0;
  }
  return static_cast<int>(sizes.size());
}

std::string value_or(const Environment& environment, const std::string& name,
                     const std::string& otherwise) {
  const auto found = environment.find(name);
  return found == environment.end() ? otherwise : found->second;
}

/// What `program --version` prints, on either stream.
std::string version_text(const std::string& program) {
  const auto command = shell_quote(program) + " --version 2>&1";
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> output(popen(command.c_str(), "re"),
                                                               &pclose);
  std::string text;
  std::array<char, 256> part{};
  while (output && std::fgets(part.data(), static_cast<int>(part.size()), output.get())) {
    text += part.data();
  }
  return text;
}

int find_open_mpi(const std::string& mpirun, const std::string& search_path) {
  static constexpr std::string_view kWayOut =
      "install Open MPI (Debian and Ubuntu: apt install openmpi-bin), or set KOLO_MPIRUN to the "
      "path of its mpirun";
  if (find_program(mpirun, search_path) != ProgramState::Ready) {
    throw UsageError(
        fmt::format("'{}' is not installed, or cannot be executed: {}", mpirun, kWayOut));
  }
  const auto text = version_text(mpirun);
  const auto major = parse_open_mpi_major(text);
  if (!major) {
    throw UsageError(fmt::format("'{}' is not Open MPI's (its --version says '{}'): {}", mpirun,
                                 text.substr(0, text.find('\n')), kWayOut));
  }
  return *major;
}

bool same_address(const sockaddr& left, const sockaddr& right) {
  if (left.sa_family != right.sa_family) return false;
  if (left.sa_family == AF_INET) {
    return reinterpret_cast<const sockaddr_in&>(left).sin_addr.s_addr ==
           reinterpret_cast<const sockaddr_in&>(right).sin_addr.s_addr;
  }
  return left.sa_family == AF_INET6 &&
         std::memcmp(&reinterpret_cast<const sockaddr_in6&>(left).sin6_addr,
                     &reinterpret_cast<const sockaddr_in6&>(right).sin6_addr,
                     sizeof(in6_addr)) == 0;
}

/// All of 127.0.0.0/8 is here; Debian gives a machine's own name 127.0.1.1.
bool is_loopback(const sockaddr& address) {
  if (address.sa_family != AF_INET) return false;
  const auto number = ntohl(reinterpret_cast<const sockaddr_in&>(address).sin_addr.s_addr);
  return number >> 24 == IN_LOOPBACKNET;
}

bool is_here(const sockaddr& address) {
  if (is_loopback(address)) return true;
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return false;
  const std::unique_ptr<ifaddrs, void (*)(ifaddrs*)> owner(list, &freeifaddrs);
  for (const auto* entry = list; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr != nullptr && same_address(*entry->ifa_addr, address)) return true;
  }
  return false;
}

}  // namespace

Machine inspect_machine(Environment environment) {
  const auto cpus = usable_cpus();
  Machine machine;
  const int usable = static_cast<int>(cpus.size());
  machine.cpus = core::within_cpu_quota(usable);
  // A quota is of time, on any CPU: others with one of theirs would be bound to the same CPUs.
  machine.packages = machine.cpus == usable ? count_packages(cpus) : 0;
  machine.is_root = geteuid() == 0;
  machine.mpirun = value_or(environment, "KOLO_MPIRUN", "mpirun");
  machine.open_mpi_major = find_open_mpi(machine.mpirun, search_path(environment));
  machine.environment = std::move(environment);
  return machine;
}

void check_network() {
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return;
  const std::unique_ptr<ifaddrs, void (*)(ifaddrs*)> owner(list, &freeifaddrs);
  for (const auto* entry = list; entry != nullptr; entry = entry->ifa_next) {
    if ((entry->ifa_flags & IFF_UP) != 0 && entry->ifa_addr != nullptr &&
        (entry->ifa_addr->sa_family == AF_INET || entry->ifa_addr->sa_family == AF_INET6)) {
      return;
    }
  }
  throw UsageError(
      "no network interface is up, not even lo, and Open MPI does not start without: ip link set lo up");
}

std::string search_path(const Environment& environment) {
  return value_or(environment, "PATH", "/bin:/usr/bin");
}

std::optional<int> parse_open_mpi_major(const std::string& version_text) {
  for (const std::string_view name : {"(Open MPI) ", "(OpenRTE) "}) {
    const auto found = version_text.find(name);
    if (found == std::string::npos) continue;
    const auto version = std::string_view(version_text).substr(found + name.size());
    return parse_count(version.substr(0, version.find('.')));
  }
  return std::nullopt;
}

HostPlace locate(const Host& host) {
  std::array<char, 256> own{};
  gethostname(own.data(), own.size() - 1);
  if (host.name == "localhost" || host.name == own.data()) return HostPlace::Here;
  addrinfo* list = nullptr;
  if (getaddrinfo(host.name.c_str(), nullptr, nullptr, &list) != 0) return HostPlace::Unknown;
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(list, &freeaddrinfo);
  for (const auto* entry = list; entry != nullptr; entry = entry->ai_next) {
    if (is_here(*entry->ai_addr)) return HostPlace::Here;
  }
  return HostPlace::Elsewhere;
}

}  // namespace kolo::launch
