// kolorun's own standard streams: written only as far as they take something, so that kolorun goes
// on when nobody reads, and passed to mpirun when they are a terminal.
#pragma once

#include <poll.h>

#include <string>

#include "launch/file_descriptor.h"
#include "launch/output.h"

namespace kolo::launch {

enum class WriteResult { Good, NobodyReads, TerminalGone };

/// Writes a part of `text`, and removes it. What a full disk does not take is lost, with a warning.
WriteResult write_some(int stream, std::string& text);

/// What is typed, for an mpirun that is not in the terminal's foreground, and so must not read it.
class TypedInput {
 public:
  /// Does nothing where standard input is no terminal: mpirun then reads it itself.
  TypedInput();

  /// What mpirun's standard input is to be; -1: this process's.
  int for_mpirun() const { return read_.get(); }
  void mpirun_started() { read_.reset(); }

  /// What to wait for; its descriptor is negative for nothing.
  pollfd wanted() const;
  void serve();

 private:
  std::string typed_;
  FileDescriptor read_;
  FileDescriptor write_;
};

}  // namespace kolo::launch
