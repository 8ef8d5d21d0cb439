#include "engine/trace_writer.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/threads.h"

namespace kolo::core {
namespace {

constexpr std::chrono::milliseconds kGather(100);
constexpr std::size_t kBlock = std::size_t{64} << 10;
/// As much is written at once, without gathering more.
constexpr std::size_t kMuch = std::size_t{1} << 20;

}  // namespace

TraceWriter::TraceWriter(std::unique_ptr<TraceSink> sink, std::size_t backlog_limit,
                         std::function<void(const std::string&)> on_error)
    : sink_(std::move(sink)), backlog_limit_(backlog_limit), on_error_(std::move(on_error)) {}

Status TraceWriter::start() {
  Result<std::thread> thread = start_thread("kolo-timeline", [this] { run(); });
  if (!thread.ok()) return thread.status();
  thread_ = std::move(thread).value();
  return {};
}

TraceWriter::~TraceWriter() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void TraceWriter::append(std::string_view lines, Priority priority) {
  bool wake = false;
  {
    const std::lock_guard lock(mutex_);
    const bool full = buffered_ + in_writing_ + lines.size() > backlog_limit_;
    if (!status_.ok() || (full && priority == Priority::MayBeDropped)) {
      ++dropped_;
      return;
    }
    const bool much_before = buffered_ >= kMuch;
    wake = buffered_ == 0;
    if (blocks_.empty() || blocks_.back().size() + lines.size() > kBlock) {
      blocks_.emplace_back().reserve(std::max(kBlock, lines.size()));
    }
    blocks_.back() += lines;
    buffered_ += lines.size();
    if (!much_before && buffered_ >= kMuch) wake = true;
  }
  if (wake) wake_.notify_one();
}

void TraceWriter::flush() {
  std::unique_lock lock(mutex_);
  flush_ = true;
  wake_.notify_one();
  written_.wait(lock, [this] { return !status_.ok() || buffered_ + in_writing_ == 0; });
  flush_ = false;
}

void TraceWriter::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return stop_ || buffered_ > 0; });
    wake_.wait_for(lock, kGather, [this] { return stop_ || flush_ || buffered_ >= kMuch; });
    if (buffered_ == 0) break;
    const Blocks blocks = std::exchange(blocks_, {});
    in_writing_ = std::exchange(buffered_, 0);
    for (const std::string& block : blocks) {
      lock.unlock();
      const Status status = sink_->append(block);
      lock.lock();
      if (!status.ok()) {
        lock.unlock();
        return fail(status);
      }
      in_writing_ -= block.size();
    }
    written_.notify_all();
  }
  lock.unlock();
  // Removes a line that another process was killed in and nobody has written after.
  if (const Status status = sink_->append(""); !status.ok()) fail(status);
}

void TraceWriter::fail(const Status& status) {
  {
    const std::lock_guard lock(mutex_);
    status_ = status;
    blocks_.clear();
  }
  written_.notify_all();
  if (on_error_) on_error_(status.message());
}

std::uint64_t TraceWriter::dropped() const {
  const std::lock_guard lock(mutex_);
  return dropped_;
}

Status TraceWriter::status() const {
  const std::lock_guard lock(mutex_);
  return status_;
}

}  // namespace kolo::core
