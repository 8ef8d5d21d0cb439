#pragma once

#include <atomic>
#include <string>
#include <thread>
#include <vector>

namespace resnet_example::testing {

/// Serves one body on 127.0.0.1, with ranges or without, one connection after the other.
class HttpServer {
 public:
  struct Behaviour {
    bool ranges = true;
    /// Breaks the connection after so many bytes of the body, in the first answer only.
    std::size_t break_after = std::string::npos;
    int status = 200;
  };

  HttpServer(std::string body, Behaviour behaviour);
  explicit HttpServer(std::string body) : HttpServer(std::move(body), Behaviour()) {}
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  std::string url() const;
  /// First byte that each request asked for. Valid when no request is under way.
  const std::vector<std::size_t>& requested_from() const { return requested_from_; }

 private:
  void serve();
  void answer(int connection);

  const std::string body_;
  const Behaviour behaviour_;
  int listener_ = -1;
  int port_ = 0;
  std::vector<std::size_t> requested_from_;
  std::atomic<bool> stopping_ = false;
  std::thread thread_;
};

}  // namespace resnet_example::testing
