#pragma once

/// The figures of each epoch, in a CSV file.

#include <filesystem>
#include <optional>

#include "files.h"

namespace resnet_example {

/// Seconds that one rank spent in the parts of its steps. On a GPU that is an estimate from some of
/// them (phase_clock.h), in which a GPU that waits for others does so in backward.
struct Phases {
  double data = 0;           ///< waiting for a batch
  double forward = 0;        ///< also the loss
  double backward = 0;       ///< without waiting for other ranks
  double communication = 0;  ///< the host's waiting for other ranks: what backward did not hide
  double optimizer = 0;
};

/// Loss and accuracy are means over all ranks' images; the times are rank 0's.
struct EpochRecord {
  int epoch = 0;  ///< from 1
  int ranks = 1;
  double lr = 0;
  double train_loss = 0;
  double train_accuracy = 0;
  double test_loss = 0;
  double test_accuracy = 0;
  double seconds = 0;            ///< of training, without the test
  double images_per_second = 0;  ///< of all ranks
  Phases phases = {};
};

class History {
 public:
  /// Starts the file anew; or, after epoch `resumed_epoch` > 0, keeps the lines up to that one.
  /// What is no file of its own, such as /dev/stdout, is written on. An empty path writes nothing.
  History(const std::filesystem::path& path, int resumed_epoch);

  /// Writes a line, at once.
  void append(const EpochRecord& record);

 private:
  std::optional<OutputFile> file_;
};

}  // namespace resnet_example
