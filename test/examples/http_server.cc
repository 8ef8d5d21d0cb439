#include "http_server.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string_view>
#include <utility>

namespace resnet_example::testing {
namespace {

void send_all(int connection, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(connection, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return;
    bytes.remove_prefix(static_cast<std::size_t>(sent));
  }
}

std::string receive_head(int connection) {
  std::string head;
  std::array<char, 1024> chunk;
  while (head.find("\r\n\r\n") == std::string::npos) {
    const ssize_t got = ::recv(connection, chunk.data(), chunk.size(), 0);
    if (got <= 0) break;
    head.append(chunk.data(), static_cast<std::size_t>(got));
  }
  return head;
}

}  // namespace

HttpServer::HttpServer(std::string body, Behaviour behaviour)
    : body_(std::move(body)), behaviour_(behaviour) {
  listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  if (::bind(listener_, generic, size) != 0 || ::listen(listener_, 4) != 0 ||
      ::getsockname(listener_, generic, &size) != 0) {
    throw std::runtime_error("cannot listen on 127.0.0.1");
  }
  port_ = ntohs(address.sin_port);
  thread_ = std::thread([this] { serve(); });
}

HttpServer::~HttpServer() {
  stopping_ = true;
  ::shutdown(listener_, SHUT_RDWR);  // ends accept()
  thread_.join();
  ::close(listener_);
}

std::string HttpServer::url() const {
  return fmt::format("http://127.0.0.1:{}/file.tar.gz", port_);
}

void HttpServer::serve() {
  while (!stopping_) {
    const int connection = ::accept(listener_, nullptr, nullptr);
    if (connection < 0) continue;
    answer(connection);
    ::close(connection);
  }
}

void HttpServer::answer(int connection) {
  const std::string head = receive_head(connection);
  constexpr std::string_view kRange = "Range: bytes=";
  const std::size_t range = head.find(kRange);
  const std::size_t from =
      range == std::string::npos ? 0 : std::stoul(head.substr(range + kRange.size()));
  requested_from_.push_back(from);

  if (behaviour_.status != 200) {
    send_all(connection,
             fmt::format("HTTP/1.1 {} No\r\nContent-Length: 0\r\n\r\n", behaviour_.status));
    return;
  }
  const bool partial = range != std::string::npos && behaviour_.ranges;
  if (partial && from >= body_.size()) {
    send_all(connection, "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\n\r\n");
    return;
  }
  const std::string_view body = std::string_view(body_).substr(partial ? from : 0);
  std::string answer_head =
      fmt::format("HTTP/1.1 {}\r\nContent-Length: {}\r\nConnection: close\r\n",
                  partial ? "206 Partial Content" : "200 OK", body.size());
  if (partial) {
    answer_head +=
        fmt::format("Content-Range: bytes {}-{}/{}\r\n", from, body_.size() - 1, body_.size());
  }
  send_all(connection, answer_head + "\r\n");
  const bool first = requested_from_.size() == 1;
  send_all(connection,
           first ? body.substr(0, std::min(body.size(), behaviour_.break_after)) : body);
}

}  // namespace resnet_example::testing
