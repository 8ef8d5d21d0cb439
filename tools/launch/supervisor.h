// Waits for mpirun and its ranks: the loop behind run_to_end(), which says what follows from what.
#pragma once

#include <signal.h>
#include <sys/signalfd.h>
#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>

#include "launch/file_descriptor.h"
#include "launch/frames.h"
#include "launch/output.h"
#include "launch/own_streams.h"
#include "launch/process.h"
#include "launch/ranks.h"

namespace kolo::launch {

/// Those that are to be blocked, as the Supervisor reads them. A SIGHUP that nohup has set to be
/// ignored stays so.
sigset_t handled_signals();

class Supervisor {
 public:
  Supervisor(const Job& job, pid_t mpirun, FileDescriptor output, FileDescriptor error,
             Output lines, TypedInput typed);

  int wait();

 private:
  using Clock = std::chrono::steady_clock;

  void wait_for_something();
  void read_signal();
  void handle_stop(const signalfd_siginfo& info);
  void stop_ranks(int number);
  void reap();
  void read_mpirun(FileDescriptor& from, void (Supervisor::*take)(std::string_view));
  void take_output(std::string_view text);
  void take_error(std::string_view text);
  void take_frame(const Frame& frame);
  void print_own(Stream stream);
  void check_time();
  void check_start();
  void check_leftover_mpirun();
  void say(const std::string& text);
  void release_held();
  void end_job(int stop_signal);
  void kill_mpirun();
  void report_end();
  int exit_code() const;

  const Job& job_;
  pid_t mpirun_;
  FileDescriptor from_output_;
  FileDescriptor from_error_;
  Output lines_;
  TypedInput typed_;
  FileDescriptor signals_;
  FrameReader frames_;
  Ranks ranks_;
  Printed printed_;
  std::string held_;  ///< mpirun's own words: lost when kolorun says why the job ended
  std::optional<int> mpirun_status_;
  bool mpirun_was_stuck_ = false;
  bool could_not_start_ = false;
  int stop_signal_ = 0;
  bool at_once_ = false;          ///< a second signal
  bool gives_up_ = false;         ///< a signal while only output is left
  std::int64_t stop_sender_ = 0;  ///< who sent the first
  Clock::time_point now_ = Clock::now();
  Clock::time_point begin_ = now_;
  Clock::time_point held_since_ = now_;
  Clock::time_point next_look_ = now_;
  std::optional<Clock::time_point> prompt_since_;
  std::optional<Clock::time_point> stopped_;      ///< when the ranks were told to end
  std::optional<Clock::time_point> asked_;        ///< when mpirun was told to end
  std::optional<Clock::time_point> alone_since_;  ///< mpirun without ranks
};

}  // namespace kolo::launch
