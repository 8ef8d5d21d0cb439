#pragma once

/// The file of a trace, to which several processes append at once, each whole lines only.

#include <cstdint>
#include <string>
#include <string_view>

#include "engine/trace_sink.h"

namespace kolo::core {

/// A line stays whole when a writer is killed. The kernel cuts the write() of a killed process at
/// borders of pages only, so lines are laid out not to cross one: spaces go before a line that
/// would. What cannot be laid out so (a line longer than a page) the next writer removes if it was
/// cut.
class TraceFile final : public TraceSink {
 public:
  /// Opens a file that is there, or (`create`) makes it, or empties one of an earlier trace, and begins the
  /// array. Any other file is left as it is, and an error.
  static Result<TraceFile> open(const std::string& path, bool create);

  TraceFile(TraceFile&& other) noexcept;
  TraceFile& operator=(TraceFile&& other) = delete;
  ~TraceFile() override;

  /// Writes whole lines. After a failure the file ends with the last line that was written whole.
  Status append(std::string_view lines) override;

  const std::string& path() const { return path_; }

 private:
  TraceFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}

  std::string path_;
  int fd_;
};

}  // namespace kolo::core
