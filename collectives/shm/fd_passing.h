#pragma once

/// Descriptors on their way between the processes of a host.

#include <sys/types.h>

#include <chrono>
#include <string>
#include <utility>

#include "base/status.h"
#include "shm/descriptor.h"

namespace kolo::core::shm {

using Deadline = std::chrono::steady_clock::time_point;

/// Where a process accepts descriptors: a Unix socket in the abstract namespace, with a name that
/// the kernel chooses. Processes of other users, who can see it, too, are passed over.
class Mailbox {
 public:
  static Result<Mailbox> open();

  /// To be told to those who send.
  const std::string& name() const { return name_; }

  struct Delivery {
    int sender = 0;
    Descriptor descriptor;
  };
  Result<Delivery> receive(Deadline deadline) const;

 private:
  Mailbox(Descriptor socket, std::string name)
      : socket_(std::move(socket)), name_(std::move(name)) {}

  Descriptor socket_;
  std::string name_;
};

/// Sends a duplicate of `descriptor`, in the name of rank `sender`, to the owner of the mailbox,
/// who must be of the same user.
Status send_descriptor(const std::string& mailbox, int sender, const Descriptor& descriptor);

/// Fails when the process at the other end of the connection is not of user `uid`.
Status check_peer(const Descriptor& connection, uid_t uid);

}  // namespace kolo::core::shm
