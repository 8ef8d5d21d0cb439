#include "launch/frames.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>

namespace kolo::launch {
namespace {

// A frame is one line of text: kBegin, kind, rank, ' ', text, kFill..., '\n'.
constexpr char kBegin = '\x01';
constexpr char kFill = '\x04';
constexpr char kEscape = '\x10';
constexpr char kShift = '\x40';

bool needs_escape(char c) {
  return c == '\0' || c == kBegin || c == kFill || c == kEscape || c == '\n';
}

bool is_kind(char c) { return std::string_view("SOEX").find(c) != std::string_view::npos; }

std::string unescape(std::string_view text) {
  std::string plain;
  for (std::size_t i = 0; i < text.size() && text[i] != kFill; ++i) {
    const bool escaped = text[i] == kEscape && i + 1 < text.size();
    plain += escaped ? static_cast<char>(text[++i] ^ kShift) : text[i];
  }
  return plain;
}

std::optional<Frame> decode(std::string_view bytes) {
  if (bytes.back() != '\n' || !is_kind(bytes[1])) return std::nullopt;
  Frame frame{static_cast<FrameKind>(bytes[1]), 0, {}};
  const char* const end = bytes.data() + bytes.size();
  const auto [stop, error] = std::from_chars(bytes.data() + 2, end, frame.rank);
  if (error != std::errc{} || *stop != ' ' || frame.rank < 0) return std::nullopt;
  frame.text = unescape({stop + 1, static_cast<std::size_t>(end - stop - 2)});
  return frame;
}

}  // namespace

std::string encode(FrameKind kind, int rank, std::string_view text) {
  const auto head = fmt::format("{}{}{} ", kBegin, static_cast<char>(kind), rank);
  std::string frames;
  while (!text.empty()) {
    std::string frame = head;
    while (!text.empty() && frame.size() + 2 < kFrameBytes) {
      const char c = text.front();
      text.remove_prefix(1);
      if (needs_escape(c)) frame += kEscape;
      frame += needs_escape(c) ? static_cast<char>(c ^ kShift) : c;
    }
    frame.resize(kFrameBytes - 1, kFill);
    frames += frame + '\n';
  }
  return frames;
}

std::vector<FrameReader::Piece> FrameReader::read(std::string_view bytes) {
  pending_ += bytes;
  std::vector<Piece> pieces;
  std::size_t at = 0;
  while (at < pending_.size()) {
    const auto left = std::string_view(pending_).substr(at);
    std::optional<Frame> frame;
    if (left.front() == kBegin) {
      if (left.size() < kFrameBytes) break;
      frame = decode(left.substr(0, kFrameBytes));
    }
    if (frame) {
      pieces.emplace_back(*std::move(frame));
      at += kFrameBytes;
    } else {
      const auto size = std::min(left.find(kBegin, 1), left.size());
      pieces.emplace_back(std::string(left.substr(0, size)));
      at += size;
    }
  }
  pending_.erase(0, at);
  return pieces;
}

std::string FrameReader::rest() { return std::exchange(pending_, {}); }

}  // namespace kolo::launch
