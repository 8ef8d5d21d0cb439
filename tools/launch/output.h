// What the ranks print, on its way to kolorun's own output and to a file for each rank.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "launch/file_descriptor.h"

namespace kolo::launch {

enum class Stream { Output, Error };

/// The texts of kolorun's own two streams, as far as they have not been written.
struct Printed {
  std::string output;
  std::string error;

  std::string& of(Stream stream) { return stream == Stream::Output ? output : error; }
};

/// Puts together lines, so that no rank's line stands in another's.
class Output {
 public:
  /// `tag`: "[rank] " begins each line. `folder`: not empty: each rank's words go into a file
  /// there, too, as they are. Throws UsageError when such a file cannot be made.
  Output(int ranks, bool tag, const std::string& folder);

  /// Appends to `printed` the lines that `text` completes.
  void add(int rank, Stream stream, std::string_view text, Printed& printed);

  /// Appends what is no line yet: prompts and progress bars. Tagged lines wait for their ends.
  void flush_prompts(Printed& printed);

  /// Appends all that is left.
  void finish(Printed& printed);

  bool has_prompts() const { return !tag_ && !begun_.empty(); }

 private:
  void append_line(int rank, std::string_view line, std::string& printed) const;
  void write_file(int rank, std::string_view text);

  bool tag_;
  std::vector<FileDescriptor> files_;
  std::vector<std::string> paths_;
  std::map<std::pair<int, Stream>, std::string> begun_;  ///< lines without their end
};

}  // namespace kolo::launch
