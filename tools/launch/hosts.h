// The hosts that ranks run on: from "node1:2,node2:2" or from a hostfile.
#pragma once

#include <istream>
#include <string>
#include <string_view>
#include <vector>

namespace kolo::launch {

struct Host {
  std::string name;
  int slots = 1;  ///< ranks that it takes

  bool operator==(const Host&) const = default;
};

/// Reads "host[:slots],...", an IPv6 address as "[::1]" or "[::1]:2". A host named twice gets the sum of its slots. Throws UsageError.
std::vector<Host> parse_hosts(std::string_view text);

/// Reads one host a line: "host", "host:slots" or "host slots=N"; '#' begins a comment.
/// `file_name` is what messages call it. Throws UsageError.
std::vector<Host> parse_hostfile(std::istream& lines, const std::string& file_name);

int total_slots(const std::vector<Host>& hosts);

/// An IPv6 address, which -H does not take.
bool is_ipv6(const Host& host);

/// "node1:2,[fe80::1]:2", as mpirun's -H takes what is no IPv6 address.
std::string to_string(const std::vector<Host>& hosts);

/// Ranks on the host with the most, when `num_proc` ranks fill the hosts in order.
int most_ranks_on_a_host(const std::vector<Host>& hosts, int num_proc);

}  // namespace kolo::launch
