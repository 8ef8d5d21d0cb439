#pragma once

/// From the threads that record to the sink, without making them wait for it.

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/status.h"
#include "engine/trace_sink.h"

namespace kolo::core {

/// Thread-safe. Lines wait in memory for at most a tenth of a second. The thread that writes them
/// sleeps while there are none.
class TraceWriter {
 public:
  enum class Priority { MayBeDropped, Keep };

  TraceWriter(std::unique_ptr<TraceSink> sink, std::size_t backlog_limit,
              std::function<void(const std::string&)> on_error);
  TraceWriter(const TraceWriter&) = delete;
  TraceWriter& operator=(const TraceWriter&) = delete;
  /// Writes what is left.
  ~TraceWriter();

  /// Before anything is appended. Fails when no thread can be started; then nothing is to be.
  Status start();

  /// Takes the whole lines of one event; drops them when more than the limit waits to be written,
  /// or when writing has failed.
  void append(std::string_view lines, Priority priority = Priority::MayBeDropped);

  /// Returns when all that was appended before has been written, or writing has failed.
  void flush();

  std::uint64_t dropped() const;
  Status status() const;

 private:
  using Blocks = std::vector<std::string>;

  void run();
  void fail(const Status& status);

  const std::unique_ptr<TraceSink> sink_;
  const std::size_t backlog_limit_;
  const std::function<void(const std::string&)> on_error_;

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable written_;
  Blocks blocks_;               // recorded; not one string, which would be copied while it grows
  std::size_t buffered_ = 0;    // bytes in blocks_
  std::size_t in_writing_ = 0;  // bytes taken from blocks_ and not yet written
  std::uint64_t dropped_ = 0;
  Status status_;
  bool flush_ = false;
  bool stop_ = false;

  std::thread thread_;
};

}  // namespace kolo::core
