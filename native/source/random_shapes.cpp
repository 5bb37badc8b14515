// Gives the operator tensors of random shapes, right and wrong ones, as onnxruntime would: it must
// refuse a call or compute it, and touch no memory but that of the tensors.
//
// random_shapes SEED CALLS: prints how many calls were computed, and how many were refused. Every
// tensor has memory of exactly its size. Built with sanitizers by native/build.py, for tests/native.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "half.h"
#include "kernels.h"
#include "ort_interface.h"

using Shape = std::vector<int64_t>;

// What onnxruntime's objects are here.
namespace ort {
struct Status {
  std::string message;
};
struct SessionOptions {};
struct CustomOpDomain {
  std::vector<const CustomOp*> operators;
};
struct KernelInfo {
  std::map<std::string, int64_t> attributes;
};
struct TensorInfo {
  Shape shape;
};
struct Value {
  Shape shape;
  ElementType type;
  std::unique_ptr<uint8_t[]> data;  // none where there are no numbers
  int64_t count() const {
    int64_t product = 1;
    for (const int64_t size : shape) product *= size;
    return product;
  }
};
struct KernelContext {
  std::vector<std::unique_ptr<Value>> inputs;  // nullptr: left out
  std::vector<std::unique_ptr<Value>> outputs;
  bool is_in_place;  // pasts and presents of one shape are one memory
};
}  // namespace ort

extern "C" ort::Status* RegisterCustomOps(ort::SessionOptions*, const ort::ApiBase*);

namespace {

using ort::Status;
using ort::Value;
using Random = std::mt19937;

constexpr int64_t kMostNumbers = 1 << 22;  // of one output; onnxruntime has no memory for more
enum Slot { kQuery, kKey, kValue, kPastKey, kPastValue, kLast, kTotal, kCos, kSin, kBias = 10, kScales = 12, kMask = 14 };

int64_t below(Random& random, int64_t count) {
  return static_cast<int64_t>(random() % static_cast<unsigned>(count));
}

size_t size_of(ort::ElementType type) {
  return type == ort::kInt64 ? 8 : type == ort::kFloat16 ? 2 : type == ort::kInt8 ? 1 : 4;
}

// A tensor of numbers that any arithmetic may meet, none of them infinite.
std::unique_ptr<Value> make(Random& random, const Shape& shape, ort::ElementType type) {
  auto made = std::make_unique<Value>();
  made->shape = shape, made->type = type;
  const auto count = static_cast<size_t>(made->count());
  if (count > 0) made->data.reset(new uint8_t[count * size_of(type)]);
  for (size_t i = 0; i < count; ++i) {
    const float x = static_cast<float>(below(random, 2001)) / 1000 - 1;
    uint8_t* const to = made->data.get() + i * size_of(type);
    if (type == ort::kFloat) {
      std::memcpy(to, &x, 4);
    } else if (type == ort::kFloat16) {
      const uint16_t bits = tramontane::float_to_half(x);
      std::memcpy(to, &bits, 2);
    } else {
      std::memset(to, static_cast<int>(below(random, 2)), size_of(type));
    }
  }
  return made;
}

void write_integers(Value& value, const std::vector<int32_t>& numbers) {
  const size_t count = std::min(numbers.size(), static_cast<size_t>(value.count()));
  if (count > 0) std::memcpy(value.data.get(), numbers.data(), count * sizeof(int32_t));
}

Status* failed(const char* message) { return new Status{message}; }

Status* get_output(ort::KernelContext* context, size_t index, const int64_t* sizes, size_t rank,
                   Value** found) {
  const Shape shape(sizes, sizes + rank);
  if (context->is_in_place && index > 0 && context->inputs[kPastKey + index - 1]->shape == shape) {
    *found = context->inputs[kPastKey + index - 1].get();
    return nullptr;
  }
  int64_t count = 1;
  for (const int64_t size : shape) count = std::min(count * size, kMostNumbers + 1);
  if (count > kMostNumbers) return failed("no memory");
  auto made = std::make_unique<Value>();
  made->shape = shape;
  made->type = index == 0 ? ort::kFloat : context->inputs[kPastKey]->type;
  if (const auto bytes = static_cast<size_t>(count) * size_of(made->type); bytes > 0) {
    made->data.reset(new uint8_t[bytes]);
    std::memset(made->data.get(), 0xff, bytes);  // floats that are no numbers
  }
  context->outputs[index] = std::move(made);
  *found = context->outputs[index].get();
  return nullptr;
}

template <typename Function>
void* as_place(Function* function) {
  return reinterpret_cast<void*>(function);
}

ort::Api make_api() {
  ort::Api api{};
  void** const places = api.functions;
  places[0] = as_place(+[](ort::ErrorCode, const char* said) { return failed(said); });
  places[26] = as_place(+[](const char*, ort::CustomOpDomain** made) -> Status* {
    static ort::CustomOpDomain domain;
    *made = &domain;
    return nullptr;
  });
  places[27] = as_place(+[](ort::CustomOpDomain* domain, const ort::CustomOp* one) -> Status* {
    domain->operators.push_back(one);
    return nullptr;
  });
  places[28] = as_place(+[](ort::SessionOptions*, ort::CustomOpDomain*) -> Status* { return nullptr; });
  places[51] = as_place(+[](const Value* value, void** data) -> Status* {
    *data = value->data.get();
    return nullptr;
  });
  places[61] = as_place(+[](const ort::TensorInfo* info, size_t* rank) -> Status* {
    *rank = info->shape.size();
    return nullptr;
  });
  places[62] = as_place(+[](const ort::TensorInfo* info, int64_t* sizes, size_t rank) -> Status* {
    std::copy_n(info->shape.begin(), rank, sizes);
    return nullptr;
  });
  places[65] = as_place(+[](const Value* value, ort::TensorInfo** info) -> Status* {
    *info = new ort::TensorInfo{value->shape};
    return nullptr;
  });
  places[86] = as_place(+[](const ort::KernelInfo* info, const char* name, int64_t* found) -> Status* {
    *found = info->attributes.at(name);
    return nullptr;
  });
  places[88] = as_place(+[](const ort::KernelContext* context, size_t* count) -> Status* {
    *count = context->inputs.size();
    return nullptr;
  });
  places[90] = as_place(+[](const ort::KernelContext* context, size_t index, const Value** found) -> Status* {
    *found = context->inputs[index].get();
    return nullptr;
  });
  places[91] = as_place(get_output);
  places[93] = as_place(+[](Status* status) { delete status; });
  places[99] = as_place(+[](ort::TensorInfo* info) { delete info; });
  places[274] = as_place(+[](const ort::KernelContext*, void (*task)(void*, size_t), size_t count,
                             size_t, void* data) -> Status* {
    for (size_t i = 0; i < count; ++i) task(data, i);
    return nullptr;
  });
  return api;
}

const ort::Api kApi = make_api();

// A size that is near to one, or far from any.
int64_t wrong(Random& random, int64_t size) {
  const int64_t sizes[] = {0, 1, size - 1, size + 1, 2 * size};
  return std::max<int64_t>(sizes[below(random, 5)], 0);
}

int64_t extreme(Random& random) {
  constexpr int64_t kInt = std::numeric_limits<int32_t>::max();
  const int64_t numbers[] = {-1, 0, 1, 65, kInt, kInt + 1, std::numeric_limits<int64_t>::max(), std::numeric_limits<int64_t>::min()};
  return numbers[below(random, 8)];
}

void damage(Random& random, std::vector<std::unique_ptr<Value>>& inputs, ort::KernelInfo& info) {
  const auto place = static_cast<size_t>(below(random, static_cast<int64_t>(inputs.size())));
  const int64_t kind = below(random, 6);
  if (kind == 0) {
    auto one = info.attributes.begin();
    std::advance(one, below(random, static_cast<int64_t>(info.attributes.size())));
    one->second = extreme(random);
  } else if (kind == 1) {
    const size_t numbers = random() % 2 ? kLast : kTotal;
    constexpr int32_t kInt = std::numeric_limits<int32_t>::max();
    const int32_t found[] = {-kInt - 1, -1, 0, 7, 1000, kInt};
    if (inputs[numbers]) write_integers(*inputs[numbers], {found[below(random, 6)]});
  } else if (inputs[place] == nullptr) {
    inputs[place] = make(random, {1, 1, 1}, place == kMask || place == 9 ? ort::kInt64 : ort::kFloat);
  } else if (kind == 2) {
    inputs[place].reset();
  } else {
    Shape shape = inputs[place]->shape;
    if (kind == 3 || shape.empty()) {
      shape.insert(shape.begin() + below(random, static_cast<int64_t>(shape.size()) + 1), below(random, 3));
    } else if (kind == 4) {
      shape.erase(shape.begin() + below(random, static_cast<int64_t>(shape.size())));
    } else {
      int64_t& size = shape[static_cast<size_t>(below(random, static_cast<int64_t>(shape.size())))];
      size = wrong(random, size);
    }
    inputs[place] = make(random, shape, inputs[place]->type);
  }
}

// One call; whether it was computed, or std::exit where an output lacks numbers.
bool call(Random& random, const ort::CustomOp& op) {
  const ort::ElementType rows = op.get_input_type(&op, kPastKey);
  const int64_t heads[] = {2, 4, 8, 20, 32, 64};
  const int64_t B = 1 + below(random, 3), G = 1 + below(random, 3), H = G * (1 + below(random, 5));
  const int64_t D = heads[below(random, 6)], T = 1 + below(random, 20), total = T + below(random, 90);
  const bool evicts = random() % 2, rotates = random() % 4, is_packed = random() % 2, has_mask = random() % 2;
  const int64_t window = evicts || random() % 2 ? 1 + below(random, 40) : 0;
  const int64_t C = evicts ? window + below(random, 30) : total - T + below(random, 2) * below(random, 40);
  ort::KernelInfo info;
  info.attributes = {{"num_heads", H}, {"kv_num_heads", G}, {"local_window_size", window},
                     {"sliding_window_cache", evicts}, {"do_rotary", rotates}};
  ort::KernelContext context;
  context.is_in_place = random() % 2;
  context.outputs.resize(3);
  auto& inputs = context.inputs;
  inputs.resize(op.get_input_count(&op));
  inputs[kQuery] = make(random, {B, T, (H + (is_packed ? 2 * G : 0)) * D}, ort::kFloat);
  for (const Slot slot : {kKey, kValue}) {
    if (!is_packed) inputs[slot] = make(random, {B, T, G * D}, ort::kFloat);
  }
  for (const Slot slot : {kPastKey, kPastValue}) inputs[slot] = make(random, {B, G, C, D}, rows);
  inputs[kLast] = make(random, {B}, ort::kInt32);
  write_integers(*inputs[kLast], std::vector<int32_t>(static_cast<size_t>(B), static_cast<int32_t>(total - 1)));
  inputs[kTotal] = make(random, random() % 2 ? Shape{} : Shape{1}, ort::kInt32);
  write_integers(*inputs[kTotal], {static_cast<int32_t>(total)});
  for (const Slot slot : {kCos, kSin}) {
    if (rotates) inputs[slot] = make(random, {128, D / 2}, ort::kFloat);
  }
  for (size_t slot = kScales; rows == ort::kInt8 && slot < kMask; ++slot) {
    inputs[slot] = make(random, {1, G, 1, D}, ort::kFloat);
  }
  if (has_mask) inputs[kMask] = make(random, {B, T + below(random, 9)}, ort::kInt64);
  for (int64_t i = below(random, 3); i > 0; --i) damage(random, inputs, info);

  void* kernel = nullptr;
  std::unique_ptr<Status> status(op.create_kernel_v2(&op, &kApi, &info, &kernel));
  if (status != nullptr) return false;
  status.reset(op.compute_v2(kernel, &context));
  op.destroy_kernel(kernel);
  if (status != nullptr) return false;
  const Value& output = *context.outputs[0];
  for (int64_t i = 0; i < output.count(); ++i) {
    float x;
    std::memcpy(&x, output.data.get() + i * 4, 4);
    if (!std::isfinite(x)) std::printf("number %d of an output is %g\n", static_cast<int>(i), static_cast<double>(x)), std::exit(1);
  }
  return true;
}

}  // namespace

int main(int count, char** arguments) {
  Random random(static_cast<unsigned>(count > 1 ? std::atoi(arguments[1]) : 0));
  const int calls = count > 2 ? std::atoi(arguments[2]) : 1000;
  const ort::ApiBase base{[](uint32_t) { return &kApi; }, nullptr};
  ort::SessionOptions options;
  RegisterCustomOps(&options, &base);
  ort::CustomOpDomain* domain = nullptr;
  std::unique_ptr<Status> none(ort::CreateCustomOpDomain::of(&kApi)("", &domain));
  int computed = 0;
  for (int i = 0; i < calls; ++i) {
    computed += call(random, *domain->operators[static_cast<size_t>(below(random, 3))]);
  }
  std::printf("%d computed, %d refused\n", computed, calls - computed);
  return 0;
}
