#include "launch/hosts.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <optional>
#include <sstream>

#include "launch/usage_error.h"
#include "launch/values.h"

namespace kolo::launch {
namespace {

/// What follows the name: in "[::1]:2" the colon after the bracket, elsewhere the first one.
std::size_t find_colon(std::string_view text) {
  return text.find(':', text.starts_with('[') ? std::min(text.find(']'), text.size()) : 0);
}

/// "[::1]" without its brackets; an IPv6 address must have them.
std::string_view without_brackets(std::string_view name) {
  if (!name.starts_with('[')) return name;
  if (name.size() < 3 || name.back() != ']') return {};
  return name.substr(1, name.size() - 2);
}

/// "host" or "host:slots".
std::optional<Host> parse_host(std::string_view text) {
  const auto colon = find_colon(text);
  const auto name = without_brackets(text.substr(0, colon));
  if (name.empty() || name.find_first_of(" \t/=[]") != std::string_view::npos) return std::nullopt;
  Host host{std::string(name), 1};
  if (colon == std::string_view::npos) return host;
  const auto slots = parse_count(text.substr(colon + 1));
  if (!slots) return std::nullopt;
  host.slots = *slots;
  return host;
}

/// "host", "host:slots" or "host slots=N".
std::optional<Host> parse_hostfile_line(const std::vector<std::string>& words) {
  static constexpr std::string_view kSlots = "slots=";
  auto host = parse_host(words.front());
  if (!host || words.size() == 1) return host;
  const bool has_colon = find_colon(words.front()) != std::string::npos;
  if (has_colon || words.size() > 2 || !words[1].starts_with(kSlots)) return std::nullopt;
  const auto slots = parse_count(std::string_view(words[1]).substr(kSlots.size()));
  if (!slots) return std::nullopt;
  host->slots = *slots;
  return host;
}

void add_host(std::vector<Host>& hosts, const Host& host) {
  const auto known = std::find_if(hosts.begin(), hosts.end(),
                                  [&](const Host& other) { return other.name == host.name; });
  if (known == hosts.end()) {
    hosts.push_back(host);
  } else {
    known->slots += host.slots;
  }
  if (total_slots(hosts) > kMaxCount) {
    throw UsageError(fmt::format("the hosts have more than {} slots: write fewer", kMaxCount));
  }
}

}  // namespace

std::vector<Host> parse_hosts(std::string_view text) {
  std::vector<Host> hosts;
  for (std::size_t begin = 0; begin <= text.size();) {
    const auto end = std::min(text.find(',', begin), text.size());
    const auto item = text.substr(begin, end - begin);
    const auto host = parse_host(item);
    if (!host) {
      throw UsageError(
          fmt::format("-H '{}': '{}' is not a host; write host:slots with slots from 1 up, "
                      "separated by commas, for example -H node1:2,node2:2",
                      text, item));
    }
    add_host(hosts, *host);
    begin = end + 1;
  }
  return hosts;
}

std::vector<Host> parse_hostfile(std::istream& lines, const std::string& file_name) {
  std::vector<Host> hosts;
  std::string line;
  for (int number = 1; std::getline(lines, line); ++number) {
    std::istringstream content(line.substr(0, line.find('#')));
    std::vector<std::string> words;
    for (std::string word; content >> word;) words.push_back(word);
    if (words.empty()) continue;
    const auto host = parse_hostfile_line(words);
    if (!host) {
      throw UsageError(
          fmt::format("{}:{}: '{}' is not a host; write 'host', 'host:slots' or 'host slots=N' "
                      "with N from 1 up",
                      file_name, number, fmt::join(words, " ")));
    }
    add_host(hosts, *host);
  }
  if (hosts.empty()) {
    throw UsageError(fmt::format(
        "hostfile '{}' names no host; write one a line, for example 'node1 slots=2'", file_name));
  }
  return hosts;
}

int total_slots(const std::vector<Host>& hosts) {
  int sum = 0;
  for (const auto& host : hosts) sum += host.slots;
  return sum;
}

bool is_ipv6(const Host& host) {
  return host.name.find(':') != std::string::npos;
}

std::string to_string(const std::vector<Host>& hosts) {
  std::string text;
  for (const auto& host : hosts) {
    const auto name = is_ipv6(host) ? fmt::format("[{}]", host.name) : host.name;
    text += fmt::format("{}{}:{}", text.empty() ? "" : ",", name, host.slots);
  }
  return text;
}

int most_ranks_on_a_host(const std::vector<Host>& hosts, int num_proc) {
  int most = 0;
  int left = num_proc;
  for (const auto& host : hosts) {
    most = std::max(most, std::min(host.slots, left));
    left -= std::min(host.slots, left);
  }
  return most;
}

}  // namespace kolo::launch
