#include "shm/fd_passing.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <utility>

#include "shm/failure.h"

namespace kolo::core::shm {
namespace {

using std::chrono::milliseconds;

Descriptor new_socket() {
  return Descriptor(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

/// A message of one integer, with room for a descriptor.
struct Packet {
  int number = 0;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> ancillary{};
  iovec data{&number, sizeof(number)};
  msghdr message{.msg_iov = &data,
                 .msg_iovlen = 1,
                 .msg_control = ancillary.data(),
                 .msg_controllen = ancillary.size()};

  Packet() = default;
  Packet(const Packet&) = delete;
  Packet& operator=(const Packet&) = delete;
};

Status wait_readable(const Descriptor& socket, Deadline deadline, std::string_view what) {
  while (true) {
    const auto left =
        std::chrono::ceil<milliseconds>(deadline - std::chrono::steady_clock::now()).count();
    pollfd polled{.fd = socket.get(), .events = POLLIN, .revents = 0};
    const int ready = ::poll(&polled, 1, static_cast<int>(std::max<std::int64_t>(left, 0)));
    if (ready > 0) return {};
    if (ready == 0) return Status::error(fmt::format("{}: nothing came in time", what));
    if (errno != EINTR) return failure(what, errno);
  }
}

/// What a member has sent.
Result<Mailbox::Delivery> receive_from(const Descriptor& connection) {
  constexpr std::string_view kWhat = "receiving a descriptor";
  Packet packet;
  if (::recvmsg(connection.get(), &packet.message, MSG_CMSG_CLOEXEC) < 0) {
    return failure(kWhat, errno);
  }
  if ((packet.message.msg_flags & MSG_CTRUNC) != 0) {
    return Status::error(fmt::format(
        "{}: it was not let in, as where a process has too many open files (see ulimit -n)",
        kWhat));
  }
  const cmsghdr* const header = CMSG_FIRSTHDR(&packet.message);
  if (header == nullptr || header->cmsg_type != SCM_RIGHTS) {
    return Status::error(fmt::format("{}: a message without one came", kWhat));
  }
  int fd = -1;
  std::memcpy(&fd, CMSG_DATA(header), sizeof(fd));
  return Mailbox::Delivery{.sender = packet.number, .descriptor = Descriptor(fd)};
}

}  // namespace

Result<Mailbox> Mailbox::open() {
  Descriptor socket = new_socket();
  if (!socket.valid()) return failure("making a Unix socket", errno);
  sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
  // Without a name: the kernel chooses one that is free.
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(sa_family_t)) != 0 ||
      ::listen(socket.get(), SOMAXCONN) != 0) {
    return failure("opening a Unix socket", errno);
  }
  socklen_t length = sizeof(address);
  if (::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    return failure("asking for a Unix socket's name", errno);
  }
  // Abstract names begin with a zero, and may contain more.
  std::string name(address.sun_path, length - offsetof(sockaddr_un, sun_path));
  return Mailbox(std::move(socket), std::move(name));
}

Status check_peer(const Descriptor& connection, uid_t uid) {
  ucred peer{};
  socklen_t length = sizeof(peer);
  if (::getsockopt(connection.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) {
    return failure("asking for the user at the other end of a Unix socket", errno);
  }
  if (peer.uid == uid) return {};
  return Status::error(fmt::format(
      "refused a process of user {} (pid {}): memory is shared with processes of user {} only",
      peer.uid, peer.pid, uid));
}

Result<Mailbox::Delivery> Mailbox::receive(Deadline deadline) const {
  constexpr std::string_view kWhat = "receiving a descriptor";
  while (true) {
    if (Status status = wait_readable(socket_, deadline, kWhat); !status.ok()) return status;
    const Descriptor connection(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!connection.valid()) {
      // Who has connected may have gone before.
      if (errno == EAGAIN || errno == ECONNABORTED || errno == EINTR) continue;
      return failure(kWhat, errno);
    }
    // Anybody can find the socket, and connect. A member would be of this user.
    if (!check_peer(connection, ::geteuid()).ok()) continue;
    if (Status status = wait_readable(connection, deadline, kWhat); !status.ok()) return status;
    return receive_from(connection);
  }
}

Status send_descriptor(const std::string& mailbox, int sender, const Descriptor& descriptor) {
  constexpr std::string_view kWhat = "sending a descriptor";
  const Descriptor connection = new_socket();
  if (!connection.valid()) return failure(kWhat, errno);
  sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
  std::ranges::copy(mailbox.substr(0, sizeof(address.sun_path)), address.sun_path);
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + mailbox.size());
  // Neither waits for the other to accept.
  if (::connect(connection.get(), reinterpret_cast<const sockaddr*>(&address), length) != 0) {
    if (errno != EAGAIN) return failure(kWhat, errno);
    return Status::error(fmt::format("{}: too many processes connect to the receiver (see "
                                     "/proc/sys/net/core/somaxconn)",
                                     kWhat));
  }
  if (Status status = check_peer(connection, ::geteuid()); !status.ok()) return status;
  Packet packet;
  packet.number = sender;
  cmsghdr* const header = CMSG_FIRSTHDR(&packet.message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  const int fd = descriptor.get();
  std::memcpy(CMSG_DATA(header), &fd, sizeof(fd));
  if (::sendmsg(connection.get(), &packet.message, MSG_NOSIGNAL) < 0) return failure(kWhat, errno);
  return {};
}

}  // namespace kolo::core::shm
