#pragma once

/// What was measured: a table for people, lines of JSON for programs.

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "bench/statistics.h"

namespace kolo::bench {

/// What a result is about: an ordered object such as {"bytes": 4, "dtype": "float32"}.
using Labels = nlohmann::ordered_json;

struct Result {
  Labels labels;
  std::string method;
  std::string quantity;
  std::string unit;
  Summary value;
  /// Kolo's value as a part of this one, pair by pair.
  std::optional<Summary> ratio;
};

/// Rank 0 writes, the others are silent.
class Report {
 public:
  /// An empty path writes no file. @throws std::runtime_error when the file cannot be written.
  Report(std::string benchmark, int rank, int ranks, const std::filesystem::path& json);
  ~Report();
  Report(const Report&) = delete;
  Report& operator=(const Report&) = delete;

  /// On a terminal: what is being measured now.
  void announce(const Labels& labels);
  void add(const Result& result);
  /// The first series is Kolo's, with which the others are compared.
  void add(const Labels& labels, const std::string& quantity, const std::string& unit,
           const std::vector<Series>& series);

 private:
  void clear_announcement();

  const std::string benchmark_;
  const bool speaks_;
  const int ranks_;
  const std::filesystem::path path_;
  std::ofstream json_;
  std::FILE* terminal_ = nullptr;
  bool has_header_ = false;
};

std::string to_json_line(const std::string& benchmark, int ranks, const Result& result);
std::string table_header(const Result& result);
std::string table_row(const Result& result);

/// 4 B, 64 KiB, 1.5 MiB.
std::string render_bytes(double bytes);

}  // namespace kolo::bench
