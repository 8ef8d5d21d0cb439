#include "wire/codec.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "support/operator_new.h"

namespace {

/// Bytes asked of operator new since the start.
std::atomic<std::size_t> allocated = 0;

}  // namespace

void kolo::testing::before_allocation(std::size_t bytes) { allocated += bytes; }

namespace kolo::core {
namespace {

using Bytes = std::vector<std::byte>;

// ---- any message ----

std::string any_text() {
  const auto letters = *rc::gen::arbitrary<std::vector<char>>();
  return {letters.begin(), letters.end()};
}

double any_number() {
  const auto number = std::bit_cast<double>(*rc::gen::arbitrary<std::uint64_t>());
  // Compared as numbers below.
  return std::isnan(number) ? 1.0 : number;
}

template <typename E>
E any_of(int count) {
  return static_cast<E>(*rc::gen::inRange(0, count));
}

Request any_request() {
  Request request;
  request.name = any_text();
  request.kind = any_of<CollectiveKind>(kCollectiveKindCount);
  request.dtype = any_of<DataType>(kDataTypeCount);
  request.op = any_of<ReduceOp>(kReduceOpCount);
  request.device = any_of<DeviceType>(kDeviceTypeCount);
  request.root_rank = *rc::gen::arbitrary<std::int32_t>();
  request.prescale = any_number();
  request.postscale = any_number();
  request.shape = *rc::gen::arbitrary<Shape>();
  request.splits = *rc::gen::arbitrary<std::vector<std::int64_t>>();
  request.awaited = *rc::gen::arbitrary<bool>();
  request.refusal = any_text();
  return request;
}

Response any_response() {
  Response response;
  response.name = any_text();
  response.error = any_text();
  response.first_dimensions = *rc::gen::arbitrary<std::vector<std::int64_t>>();
  response.new_channel = *rc::gen::arbitrary<ChannelId>();
  response.plan = *rc::gen::arbitrary<PlanId>();
  return response;
}

template <typename Item>
std::vector<Item> some(Item (*any)()) {
  std::vector<Item> items(static_cast<std::size_t>(*rc::gen::inRange(0, 5)));
  for (Item& item : items) item = any();
  return items;
}

std::int64_t any_int64() { return *rc::gen::arbitrary<std::int64_t>(); }
ChannelId any_channel() { return *rc::gen::arbitrary<ChannelId>(); }

void fill(RequestList& m) { m = {any_channel(), some(any_request)}; }
void fill(ResponseList& m) { m = {any_channel(), some(any_response)}; }
PlanProgress any_progress() { return {any_channel(), *rc::gen::arbitrary<std::uint64_t>()}; }
void fill(Leave& m) { m = {some(any_progress)}; }
void fill(MemberLeft& m) {
  m = {any_channel(), *rc::gen::arbitrary<std::int32_t>(), some(any_progress)};
}
void fill(PlanEnd& m) { m = {*rc::gen::arbitrary<std::int32_t>(), any_progress()}; }
void fill(AllLeft& m) { m = {any_channel()}; }
void fill(Failure& m) { m = {any_text()}; }
void fill(StallNotice& m) { m = {any_channel()}; }
void fill(Hello& m) {
  const auto any_bool = [] { return *rc::gen::arbitrary<bool>(); };
  m = {any_text(), any_int64(), any_bool(), any_bool(), any_text(), any_text()};
}
void fill(Welcome& m) { m = {any_text(), any_int64(), any_int64()}; }
void fill(TraceLines& m) { m = {any_text()}; }

AwaitedOperation any_operation() {
  return {.channel = any_channel(),
          .name = any_text(),
          .number = *rc::gen::arbitrary<std::uint64_t>(),
          .failures = *rc::gen::arbitrary<std::uint64_t>(),
          .ranks = *rc::gen::arbitrary<std::vector<std::int32_t>>(),
          .words = any_text()};
}
void fill(Blocked& m) { m = {*rc::gen::arbitrary<std::uint64_t>(), some(any_operation)}; }
void fill(CircleQuestion& m) {
  m = {*rc::gen::arbitrary<std::uint64_t>(), *rc::gen::arbitrary<std::uint64_t>(),
       some(any_operation)};
}
void fill(CircleAnswer& m) {
  m = {*rc::gen::arbitrary<std::uint64_t>(), *rc::gen::arbitrary<bool>(),
       *rc::gen::arbitrary<std::vector<std::uint8_t>>()};
}

/// Of alternative number `kind`.
template <std::size_t I = 0>
Message any_message(std::size_t kind) {
  if constexpr (I + 1 < std::variant_size_v<Message>) {
    if (kind != I) return any_message<I + 1>(kind);
  }
  std::variant_alternative_t<I, Message> message;
  fill(message);
  return message;
}

Message any_message() {
  return any_message(*rc::gen::inRange<std::size_t>(0, std::variant_size_v<Message>));
}

/// In memory of exactly this size, so that AddressSanitizer sees what is read outside of it.
Result<Message> decode_exactly(const Bytes& bytes) {
  const auto exact = std::make_unique<std::byte[]>(bytes.size());
  if (!bytes.empty()) std::memcpy(exact.get(), bytes.data(), bytes.size());
  return decode({exact.get(), bytes.size()});
}

/// Whether decode() refuses the bytes, or gives a message that is written as the same bytes.
bool refused_or_valid(const Bytes& bytes) {
  const Result<Message> message = decode_exactly(bytes);
  return !message.ok() || encode(message.value()) == bytes;
}

// ---- properties ----

TEST(Codec, EveryKindComesBack) {
  for (std::size_t kind = 0; kind < std::variant_size_v<Message>; ++kind) {
    EXPECT_TRUE(rc::check([kind] {
      const Message message = any_message(kind);
      const Result<Message> decoded = decode_exactly(encode(message));
      RC_ASSERT(decoded.ok());
      RC_ASSERT(decoded.value() == message);
    }));
  }
}

TEST(Codec, NanKeepsItsBits) {
  RequestList list;
  list.requests.emplace_back().prescale = std::bit_cast<double>(0x7ff8'0000'0000'0123U);
  const Bytes bytes = encode(list);
  EXPECT_EQ(encode(decode(bytes).value()), bytes);
}

TEST(Codec, TruncatedMessagesAreRefused) {
  EXPECT_TRUE(rc::check([] {
    const Bytes whole = encode(any_message());
    for (std::size_t size = 0; size < whole.size(); ++size) {
      const auto end = whole.begin() + static_cast<std::ptrdiff_t>(size);
      RC_ASSERT(!decode_exactly(Bytes(whole.begin(), end)).ok());
    }
  }));
}

TEST(Codec, WhatFollowsTheMessageIsRefused) {
  EXPECT_TRUE(rc::check([] {
    Bytes bytes = encode(any_message());
    bytes.push_back(*rc::gen::element(std::byte{0}, std::byte{1}, std::byte{255}));
    RC_ASSERT(!decode_exactly(bytes).ok());
  }));
}

TEST(Codec, OneWrongByteIsRefusedOrAnotherMessage) {
  EXPECT_TRUE(rc::check([] {
    const Bytes right = encode(any_message());
    for (std::size_t i = 0; i < right.size(); ++i) {
      for (const unsigned change : {1U, 2U, 16U, 128U, 255U}) {
        Bytes wrong = right;
        wrong[i] ^= static_cast<std::byte>(change);
        RC_ASSERT(refused_or_valid(wrong));
      }
    }
  }));
}

TEST(Codec, EveryValueOfEveryByte) {
  RequestList requests{.channel = 3};
  requests.requests.push_back(
      {.name = "layer1.weight", .shape = {64, 3, 7, 7}, .splits = {40, 24}, .refusal = "no"});
  ResponseList responses{.channel = 4};
  responses.responses.push_back({.name = "t", .error = "e", .first_dimensions = {1, 2}});
  const std::vector<Message> messages = {requests, responses, Hello{.timeline = true}, Welcome{},
                                         Failure{.reason = "cable cut"}};
  for (const Message& message : messages) {
    const Bytes right = encode(message);
    for (std::size_t i = 0; i < right.size(); ++i) {
      for (int value = 0; value < 256; ++value) {
        Bytes wrong = right;
        wrong[i] = static_cast<std::byte>(value);
        ASSERT_TRUE(refused_or_valid(wrong)) << "byte " << i << " = " << value;
      }
    }
  }
}

TEST(Codec, RandomBytes) {
  EXPECT_TRUE(rc::check([] {
    Bytes bytes = {std::byte{1}, static_cast<std::byte>(*rc::gen::inRange(0, 12))};
    for (const auto value : *rc::gen::arbitrary<std::vector<std::uint8_t>>()) {
      bytes.push_back(static_cast<std::byte>(value));
    }
    RC_ASSERT(refused_or_valid(bytes));
  }));
}

// ---- hostile bytes ----

/// Bytes that decode() allocates.
std::size_t cost(const Bytes& bytes) {
  const std::size_t before = allocated;
  static_cast<void>(decode(bytes));
  return allocated - before;
}

/// For messages that say what is wrong.
constexpr std::size_t kBasicCost = 1024;

TEST(Codec, HostileLengthsAllocateLittle) {
  EXPECT_TRUE(rc::check([] {
    const Bytes right = encode(any_message());
    for (std::size_t i = 2; i + 4 <= right.size(); ++i) {
      for (const std::uint32_t length : {0xffff'ffffU, 0x7fff'ffffU, 0x1000'0000U, 0x10'0000U}) {
        Bytes wrong = right;
        std::memcpy(wrong.data() + i, &length, sizeof length);
        RC_ASSERT(cost(wrong) <= 16 * wrong.size() + kBasicCost);
      }
    }
  }));
}

// As many items as the length of the message lets pass.
TEST(Codec, ManyEmptyItemsAllocateLittle) {
  for (const std::byte kind : {std::byte{0}, std::byte{1}}) {
    Bytes bytes(1 << 20);
    bytes[0] = std::byte{1};
    bytes[1] = kind;
    for (const std::uint32_t bytes_per_item : {1U, 4U, 8U, 16U, 36U}) {
      const auto length = static_cast<std::uint32_t>((bytes.size() - 10) / bytes_per_item);
      std::memcpy(bytes.data() + 6, &length, sizeof length);
      EXPECT_LE(cost(bytes), 16 * bytes.size() + kBasicCost);
    }
  }
}

TEST(Codec, TheSameAgainIsTheSameMessage) {
  EXPECT_TRUE(rc::check([] {
    Decoder decode_next;
    std::vector<Bytes> heard;
    for (int i = *rc::gen::inRange(1, 8); i > 0; --i) {
      const bool again = !heard.empty() && *rc::gen::arbitrary<bool>();
      heard.push_back(again ? heard.back() : encode(any_message()));
      if (!again && *rc::gen::arbitrary<bool>()) heard.back().pop_back();
      const Result<Message> alone = decode(heard.back());
      const Result<std::shared_ptr<const Message>> next = decode_next(heard.back());
      RC_ASSERT(next.ok() == alone.ok());
      if (next.ok()) RC_ASSERT(*next.value() == alone.value());
    }
  }));
}

TEST(Codec, AnotherVersionIsNamed) {
  Bytes bytes = encode(Leave{});
  bytes[0] = std::byte{2};
  const Result<Message> message = decode(bytes);
  ASSERT_FALSE(message.ok());
  EXPECT_EQ(
      message.status().message(),
      "message of wire version 2, but this rank speaks version 1: all ranks must run the same "
      "build of Kolo");
  // Also when the rest means nothing here.
  bytes.resize(100, std::byte{255});
  EXPECT_EQ(decode(bytes).status().message(), message.status().message());
}

TEST(Codec, UnknownKindsAreRefused) {
  for (std::size_t kind = std::variant_size_v<Message>; kind < 256; ++kind) {
    EXPECT_FALSE(decode(Bytes{std::byte{1}, static_cast<std::byte>(kind)}).ok());
  }
}

}  // namespace
}  // namespace kolo::core
