#include "history.h"

#include <fmt/format.h>

#include <cstdlib>
#include <sstream>
#include <stdexcept>
#include <string>

namespace resnet_example {
namespace {

constexpr const char* kHeader =
    "epoch,ranks,lr,train_loss,train_accuracy,test_loss,test_accuracy,seconds,images_per_second,"
    "data_seconds,forward_seconds,backward_seconds,communication_seconds,optimizer_seconds";

/// The file's lines up to `last_epoch`. Later ones are of epochs that are about to be repeated.
std::string lines_up_to(const std::filesystem::path& path, int last_epoch) {
  std::istringstream old(read_file(path));
  std::string line;
  std::getline(old, line);
  if (line != kHeader) {
    throw std::runtime_error(
        fmt::format("{}: first line: expected '{}', found '{}'", path.string(), kHeader, line));
  }
  std::string kept = line + '\n';
  while (std::getline(old, line)) {
    if (std::atoi(line.c_str()) <= last_epoch) kept += line + '\n';
  }
  return kept;
}

}  // namespace

History::History(const std::filesystem::path& path, int resumed_epoch) {
  if (path.empty()) return;
  const bool is_own_file = replaceable_file(path).has_value();
  const bool go_on = is_own_file && resumed_epoch > 0 && std::filesystem::exists(path);
  const std::string begin = go_on ? lines_up_to(path, resumed_epoch) : std::string(kHeader) + '\n';
  if (is_own_file) write_file_atomically(path, begin);
  file_.emplace(path, OutputFile::How::Append);
  if (!is_own_file) file_->write(begin);
}

void History::append(const EpochRecord& r) {
  if (!file_) return;
  file_->write(
      fmt::format("{},{},{},{},{},{},{},{:.6f},{:.3f},{:.6f},{:.6f},{:.6f},{:.6f},{:.6f}\n",
                  r.epoch, r.ranks, r.lr, r.train_loss, r.train_accuracy, r.test_loss,
                  r.test_accuracy, r.seconds, r.images_per_second, r.phases.data, r.phases.forward,
                  r.phases.backward, r.phases.communication, r.phases.optimizer));
}

}  // namespace resnet_example
