#include "wire/codec.h"

#include <fmt/format.h>

#include <bit>
#include <cstring>
#include <type_traits>

namespace kolo::core {
namespace {

static_assert(std::endian::native == std::endian::little, "the codec copies integers as they are");

constexpr std::uint8_t kVersion = 1;

class Writer {
 public:
  explicit Writer(std::vector<std::byte>& bytes) : bytes_(bytes) {}

  template <typename T>
  void operator()(const T& value) {
    static_assert(std::is_arithmetic_v<T> || std::is_enum_v<T>);
    append(&value, sizeof(T));
  }
  void operator()(const std::string& text) {
    length(text.size());
    append(text.data(), text.size());
  }
  template <typename T>
  void operator()(const std::vector<T>& items) {
    length(items.size());
    for (const T& item : items) (*this)(item);
  }
  void operator()(const Request& request) { fields(*this, request); }
  void operator()(const Response& response) { fields(*this, response); }
  void operator()(const PlanProgress& progress) { fields(*this, progress); }
  void operator()(const AwaitedOperation& operation) { fields(*this, operation); }

  template <typename Visitor, typename R>
  static void fields(Visitor& visit, R& r) {
    if constexpr (std::is_same_v<std::remove_const_t<R>, Request>) {
      visit(r.name);
      visit(r.kind);
      visit(r.dtype);
      visit(r.op);
      visit(r.device);
      visit(r.root_rank);
      visit(r.prescale);
      visit(r.postscale);
      visit(r.shape);
      visit(r.splits);
      visit(r.awaited);
      visit(r.refusal);
    } else if constexpr (std::is_same_v<std::remove_const_t<R>, PlanProgress>) {
      visit(r.channel);
      visit(r.operations);
    } else if constexpr (std::is_same_v<std::remove_const_t<R>, AwaitedOperation>) {
      visit(r.channel);
      visit(r.name);
      visit(r.number);
      visit(r.failures);
      visit(r.ranks);
      visit(r.words);
    } else {
      static_assert(std::is_same_v<std::remove_const_t<R>, Response>);
      visit(r.name);
      visit(r.error);
      visit(r.first_dimensions);
      visit(r.new_channel);
      visit(r.plan);
    }
  }

 private:
  void length(std::size_t size) { (*this)(static_cast<std::uint32_t>(size)); }

  void append(const void* data, std::size_t size) {
    if (size == 0) return;
    bytes_.resize(bytes_.size() + size);
    std::memcpy(bytes_.data() + bytes_.size() - size, data, size);
  }

  std::vector<std::byte>& bytes_;
};

/// Reads fields until the first fault, and remembers it.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  template <typename T>
  void operator()(T& value) {
    static_assert(std::is_arithmetic_v<T>);
    if (!take(sizeof(T))) return;
    std::memcpy(&value, taken_, sizeof(T));
  }
  void operator()(bool& value) {
    std::uint8_t number = 0;
    (*this)(number);
    if (number > 1) failed_ = true;
    value = number == 1;
  }
  void operator()(CollectiveKind& kind) { enumerator(kind, kCollectiveKindCount); }
  void operator()(DataType& dtype) { enumerator(dtype, kDataTypeCount); }
  void operator()(ReduceOp& op) { enumerator(op, kReduceOpCount); }
  void operator()(DeviceType& device) { enumerator(device, kDeviceTypeCount); }
  void operator()(std::string& text) {
    const std::size_t size = length(1);
    if (!take(size)) return;
    text.assign(reinterpret_cast<const char*>(taken_), size);
  }
  template <typename T>
  void operator()(std::vector<T>& items) {
    // The least that one encoded item takes bounds what a hostile length can allocate.
    constexpr std::size_t kLeast = std::is_arithmetic_v<T> ? sizeof(T) : 12;
    const std::size_t size = length(kLeast);
    if (failed_) return;
    items.resize(size);
    for (T& item : items) (*this)(item);
  }
  void operator()(Request& request) { Writer::fields(*this, request); }
  void operator()(Response& response) { Writer::fields(*this, response); }
  void operator()(PlanProgress& progress) { Writer::fields(*this, progress); }
  void operator()(AwaitedOperation& operation) { Writer::fields(*this, operation); }

  bool finished() const { return !failed_ && bytes_.empty(); }

 private:
  bool take(std::size_t size) {
    if (failed_ || size > bytes_.size()) {
      failed_ = true;
      return false;
    }
    taken_ = bytes_.data();
    bytes_ = bytes_.subspan(size);
    return true;
  }

  std::size_t length(std::size_t bytes_per_item) {
    std::uint32_t size = 0;
    (*this)(size);
    if (size > bytes_.size() / bytes_per_item) failed_ = true;
    return failed_ ? 0 : size;
  }

  template <typename E>
  void enumerator(E& value, int count) {
    std::uint8_t number = 0;
    (*this)(number);
    if (number >= count) failed_ = true;
    if (!failed_) value = static_cast<E>(number);
  }

  std::span<const std::byte> bytes_;
  const std::byte* taken_ = nullptr;
  bool failed_ = false;
};

template <typename Visitor, typename M>
void message_fields(Visitor& visit, M& message) {
  using Kind = std::remove_const_t<M>;
  if constexpr (std::is_same_v<Kind, RequestList>) {
    visit(message.channel);
    visit(message.requests);
  } else if constexpr (std::is_same_v<Kind, ResponseList>) {
    visit(message.channel);
    visit(message.responses);
  } else if constexpr (std::is_same_v<Kind, Leave>) {
    visit(message.plans);
  } else if constexpr (std::is_same_v<Kind, MemberLeft>) {
    visit(message.channel);
    visit(message.rank);
    visit(message.plans);
  } else if constexpr (std::is_same_v<Kind, PlanEnd>) {
    visit(message.rank);
    visit(message.plan);
  } else if constexpr (std::is_same_v<Kind, Failure>) {
    visit(message.reason);
  } else if constexpr (std::is_same_v<Kind, AllLeft> || std::is_same_v<Kind, StallNotice>) {
    visit(message.channel);
  } else if constexpr (std::is_same_v<Kind, Hello>) {
    visit(message.refusal);
    visit(message.fusion_threshold);
    visit(message.timeline);
    visit(message.gpu_over_mpi);
    visit(message.timeline_file);
    visit(message.nccl);
  } else if constexpr (std::is_same_v<Kind, Welcome>) {
    visit(message.error);
    visit(message.clock_ns);
    visit(message.timeline_origin_ns);
  } else if constexpr (std::is_same_v<Kind, TraceLines>) {
    visit(message.lines);
  } else if constexpr (std::is_same_v<Kind, Blocked>) {
    visit(message.epoch);
    visit(message.operations);
  } else if constexpr (std::is_same_v<Kind, CircleQuestion>) {
    visit(message.number);
    visit(message.epoch);
    visit(message.operations);
  } else if constexpr (std::is_same_v<Kind, CircleAnswer>) {
    visit(message.number);
    visit(message.waits);
    visit(message.lacks);
  } else {
    static_assert(std::is_empty_v<Kind>);
  }
}

/// The message of the variant's alternative `index`, its fields read by `reader`.
template <std::size_t I = 0>
Message read_alternative(std::size_t index, Reader& reader) {
  if constexpr (I + 1 < std::variant_size_v<Message>) {
    if (index != I) return read_alternative<I + 1>(index, reader);
  }
  std::variant_alternative_t<I, Message> message;
  message_fields(reader, message);
  return message;
}

/// Of a message whose names are short.
std::size_t usual_bytes(const Message& message) {
  constexpr std::size_t kItem = 96;
  std::size_t items = 1;
  if (const auto* const asked = std::get_if<RequestList>(&message)) items += asked->requests.size();
  if (const auto* const said = std::get_if<ResponseList>(&message)) items += said->responses.size();
  return items * kItem;
}

}  // namespace

std::vector<std::byte> encode(const Message& message) {
  std::vector<std::byte> bytes;
  bytes.reserve(usual_bytes(message));
  Writer write(bytes);
  write(kVersion);
  write(static_cast<std::uint8_t>(message.index()));
  std::visit([&write](const auto& alternative) { message_fields(write, alternative); }, message);
  return bytes;
}

Result<Message> decode(std::span<const std::byte> bytes) {
  Reader read(bytes);
  std::uint8_t version = 0;
  std::uint8_t kind = 0;
  read(version);
  read(kind);
  if (bytes.size() >= 2 && version != kVersion) {
    return Status::error(fmt::format(
        "message of wire version {}, but this rank speaks version {}: all ranks must run the same "
        "build of Kolo",
        version, kVersion));
  }
  if (bytes.size() < 2 || kind >= std::variant_size_v<Message>) {
    return Status::error(fmt::format("malformed message of {} bytes", bytes.size()));
  }
  Message message = read_alternative(kind, read);
  if (!read.finished()) {
    return Status::error(fmt::format("malformed message of {} bytes", bytes.size()));
  }
  return message;
}

Result<std::shared_ptr<const Message>> Decoder::operator()(std::vector<std::byte> bytes) {
  // Not by ==, which compares vectors of bytes one by one.
  const bool again = message_ != nullptr && bytes.size() == bytes_.size() &&
                     std::memcmp(bytes.data(), bytes_.data(), bytes.size()) == 0;
  if (!again) {
    message_.reset();
    Result<Message> decoded = decode(bytes);
    if (!decoded.ok()) return decoded.status();
    message_ = std::make_shared<const Message>(std::move(decoded).value());
    bytes_ = std::move(bytes);
  }
  return message_;
}

}  // namespace kolo::core
