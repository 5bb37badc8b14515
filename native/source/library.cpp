// The custom-operator library: registers the operator with onnxruntime, checks what it is given.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <limits>
#include <new>

#include "attention.h"
#include "ort_interface.h"

#if !defined(VERSION)
#define VERSION "unknown"
#endif

namespace tramontane {
namespace {

constexpr const char* kDomain = "tramontane.native";
constexpr const char* kName = "GroupQueryAttention";
// Of the operator; runtime/ort/native_library.py has the same. onnxruntime takes a graph that needs
// a newer one as well, so the driver compares.
constexpr int kOperatorVersion = 1;

// The inputs in order: those of com.microsoft.GroupQueryAttention, which this operator replaces,
// and one more.
enum Slot : size_t {
  kQuery,  // or query, key and value in one; then the two behind it are left out
  kKey,
  kValue,
  kPastKey,
  kPastValue,
  kLastTokens,
  kTotal,
  kCos,
  kSin,
  kPositions,  // from here to kSinks: not supported
  kBias,
  kSinks,
  kKeyScales,
  kValueScales,
  kMask,  // its last T columns say how many of the T positions are padding
  kInputs,
};
constexpr const char* kNames[kInputs] = {
    "query",     "key",       "value",        "past_key",       "past_value",
    "seqlens_k", "total_sequence_length", "cos_cache", "sin_cache", "position_ids",
    "attention_bias", "head_sink", "k_scale", "v_scale", "attention_mask"};
constexpr size_t kOutputs = 3;
constexpr int kMostDimensions = 4;
constexpr int64_t kMostInAttribute = std::numeric_limits<int32_t>::max();

// A message in a status of onnxruntime's; formatted like printf.
template <typename... Values>
ort::Status* refuse(const ort::Api* api, const char* format, Values... values) {
  char message[512];
  std::snprintf(message, sizeof(message), format, values...);
  return ort::CreateStatus::of(api)(ort::kInvalidArgument, message);
}

#define RETURN_IF_FAILED(expression)                              \
  do {                                                            \
    if (ort::Status* const status = (expression)) return status; \
  } while (false)

struct Operator : ort::CustomOp {
  RowType type;
};

struct Kernel {
  const ort::Api* api;
  RowType type;
  int64_t H, G, window;
  bool evicts, rotates;
};

struct Tensor {
  void* data = nullptr;  // may be so too for a tensor without numbers, such as an empty cache
  int64_t shape[kMostDimensions] = {};
  size_t rank = 0;
  bool is_given = false;
};

ort::Status* read_tensor(const ort::Api* api, const ort::KernelContext* context, size_t index,
                         Tensor* tensor) {
  const ort::Value* value = nullptr;
  RETURN_IF_FAILED(ort::GetInput::of(api)(context, index, &value));
  if (value == nullptr) return nullptr;
  ort::TensorInfo* info = nullptr;
  RETURN_IF_FAILED(ort::GetTensorTypeAndShape::of(api)(value, &info));
  ort::Status* failed = ort::GetDimensionsCount::of(api)(info, &tensor->rank);
  if (failed == nullptr && tensor->rank > kMostDimensions) {
    failed = refuse(api, "%s: %s has %zu axes; expected at most %d", kName, kNames[index],
                    tensor->rank, kMostDimensions);
  }
  if (failed == nullptr) {
    failed = ort::GetDimensions::of(api)(info, tensor->shape, tensor->rank);
  }
  ort::ReleaseTensorInfo::of(api)(info);
  RETURN_IF_FAILED(failed);
  tensor->is_given = true;
  return ort::GetTensorMutableData::of(api)(const_cast<ort::Value*>(value), &tensor->data);
}

// Refuses a tensor whose shape is not the expected one.
ort::Status* expect_shape(const ort::Api* api, const char* name, const Tensor& found,
                          std::initializer_list<int64_t> expected) {
  bool fits = found.is_given && found.rank == expected.size();
  size_t axis = 0;
  for (const int64_t size : expected) {
    fits = fits && found.shape[axis] == size;
    ++axis;
  }
  if (fits) return nullptr;
  char shapes[2][128] = {"", ""};
  const auto write = [](char* text, const int64_t* sizes, size_t rank) {
    size_t used = 0;
    for (size_t i = 0; i < rank && used < 100; ++i) {
      used += static_cast<size_t>(std::snprintf(text + used, 128 - used, "%s%lld", i ? ", " : "",
                                                static_cast<long long>(sizes[i])));
    }
  };
  write(shapes[0], found.shape, found.rank);
  write(shapes[1], expected.begin(), expected.size());
  return refuse(api, "%s: %s is (%s); expected (%s)", kName, name, shapes[0], shapes[1]);
}

ort::Status* create_kernel(const ort::CustomOp* op, const ort::Api* api,
                                    const ort::KernelInfo* info, void** made) {
  const auto* const described = static_cast<const Operator*>(op);
  int64_t found[5] = {};
  static const char* const names[] = {"num_heads", "kv_num_heads", "local_window_size",
                                      "sliding_window_cache", "do_rotary"};
  for (int i = 0; i < 5; ++i) {
    RETURN_IF_FAILED(ort::GetAttributeInt64::of(api)(info, names[i], &found[i]));
  }
  for (int i = 0; i < 5; ++i) {  // sums and products of sizes fit into 64 bits
    if (found[i] < 0 || found[i] > kMostInAttribute) {
      return refuse(api, "%s: %s is %lld; expected 0 to %lld", kName, names[i],
                    static_cast<long long>(found[i]), static_cast<long long>(kMostInAttribute));
    }
  }
  const auto [H, G, window, evicts, rotates] = found;
  if (H < 1 || G < 1 || H % G != 0) {
    return refuse(api, "%s: num_heads is %lld, kv_num_heads %lld; expected a multiple", kName,
                  static_cast<long long>(H), static_cast<long long>(G));
  }
  if (H / G > kMaxQueries) {
    return refuse(api, "%s: %lld query heads read one key/value head; expected at most %d", kName,
                  static_cast<long long>(H / G), kMaxQueries);
  }
  if (evicts != 0 && window == 0) {
    return refuse(api, "%s: local_window_size is 0; expected at least 1", kName);
  }
  void* const memory = std::malloc(sizeof(Kernel));
  if (memory == nullptr) return refuse(api, "%s: no memory for a kernel", kName);
  *made = new (memory) Kernel{api, described->type, H, G, window, evicts != 0, rotates != 0};
  return nullptr;
}

void destroy_kernel(void* kernel) { std::free(kernel); }

// What onnxruntime's thread pool needs; a status that it returned first.
struct Pool {
  const ort::Api* api;
  const ort::KernelContext* context;
  ort::Status* failed;
};

void run_in_pool(void* context, int64_t count, void (*task)(void*, size_t), void* data) {
  auto* const pool = static_cast<Pool*>(context);
  ort::Status* const failed =
      ort::ParallelFor::of(pool->api)(pool->context, task, static_cast<size_t>(count), 0, data);
  if (failed == nullptr) return;
  if (pool->failed == nullptr) {
    pool->failed = failed;
  } else {
    ort::ReleaseStatus::of(pool->api)(failed);
  }
}

ort::Status* read_shapes(const Kernel& kernel, const Tensor* given, Call* call) {
  const ort::Api* const api = kernel.api;
  const Tensor &query = given[kQuery], &past = given[kPastKey];
  for (size_t i = kPositions; i <= kSinks; ++i) {
    if (given[i].is_given) return refuse(api, "%s: %s is given; expected none", kName, kNames[i]);
  }
  if (!query.is_given || query.rank != 3 || !past.is_given || past.rank != 4) {
    return refuse(api, "%s: query has %zu axes and past_key %zu; expected 3 and 4", kName,
                  query.rank, past.rank);
  }
  const int64_t B = query.shape[0], T = query.shape[1], D = past.shape[3], C = past.shape[2];
  call->B = B, call->T = T, call->H = kernel.H, call->G = kernel.G, call->D = D;
  const bool is_packed = !given[kKey].is_given;
  const int64_t columns = (kernel.H + (is_packed ? 2 * kernel.G : 0)) * D;
  if (D < 2 || D % 2 != 0 || D > kMaxHeadSize) {
    return refuse(api, "%s: heads of %lld numbers; expected an even number, at most %d", kName,
                  static_cast<long long>(D), kMaxHeadSize);
  }
  RETURN_IF_FAILED(expect_shape(api, "query", query, {B, T, columns}));
  if (!is_packed) {
    RETURN_IF_FAILED(expect_shape(api, "key", given[kKey], {B, T, kernel.G * D}));
    RETURN_IF_FAILED(expect_shape(api, "value", given[kValue], {B, T, kernel.G * D}));
  }
  RETURN_IF_FAILED(expect_shape(api, "past_key", past, {B, kernel.G, C, D}));
  RETURN_IF_FAILED(expect_shape(api, "past_value", given[kPastValue], {B, kernel.G, C, D}));
  RETURN_IF_FAILED(expect_shape(api, kNames[kLastTokens], given[kLastTokens], {B}));
  if (given[kTotal].rank > 0 || !given[kTotal].is_given) {
    RETURN_IF_FAILED(expect_shape(api, kNames[kTotal], given[kTotal], {1}));
  }
  if (kernel.evicts && C < kernel.window) {
    return refuse(api, "%s: past_key has %lld rows; expected at least the window, %lld", kName,
                  static_cast<long long>(C), static_cast<long long>(kernel.window));
  }
  if (given[kMask].is_given) {
    call->mask_columns = given[kMask].rank == 2 ? std::max(given[kMask].shape[1], T) : T;
    RETURN_IF_FAILED(expect_shape(api, kNames[kMask], given[kMask], {B, call->mask_columns}));
  }
  call->mask = static_cast<const int64_t*>(given[kMask].data);
  call->P = given[kCos].is_given ? given[kCos].shape[0] : 0;
  if (kernel.rotates) {
    RETURN_IF_FAILED(expect_shape(api, "cos_cache", given[kCos], {call->P, D / 2}));
    RETURN_IF_FAILED(expect_shape(api, "sin_cache", given[kSin], {call->P, D / 2}));
  }
  if (kernel.type == RowType::kInt8) {
    RETURN_IF_FAILED(expect_shape(api, kNames[kKeyScales], given[kKeyScales], {1, kernel.G, 1, D}));
    RETURN_IF_FAILED(expect_shape(api, kNames[kValueScales], given[kValueScales], {1, kernel.G, 1, D}));
  }
  call->past_rows = C;
  const auto* const query_data = static_cast<const float*>(query.data);
  call->query = query_data;
  call->query_stride = columns;
  call->key_stride = is_packed ? columns : kernel.G * D;
  call->key = is_packed ? query_data + kernel.H * D : static_cast<const float*>(given[kKey].data);
  call->value = is_packed ? query_data + (kernel.H + kernel.G) * D
                          : static_cast<const float*>(given[kValue].data);
  return nullptr;
}

// Refuses sequences that do not fit into the cache or the rope tables.
ort::Status* check_lengths(const Kernel& kernel, const Call& call, int64_t longest) {
  for (int64_t b = 0; b < call.B; ++b) {
    const int64_t total = static_cast<int64_t>(call.last_tokens[b]) + 1;
    const bool is_padded = total < call.T && longest > call.T;  // in a later call
    if (total < 1 || total > longest || (is_padded && call.mask == nullptr)) {
      return refuse(kernel.api, "%s: sequence %lld has %lld tokens, %lld of them new; expected 1 to %lld",
                    kName, static_cast<long long>(b), static_cast<long long>(total),
                    static_cast<long long>(call.T), static_cast<long long>(longest));
    }
    if (kernel.rotates && total > call.P) {
      return refuse(kernel.api, "%s: position %lld is beyond the rope tables of %lld rows", kName,
                    static_cast<long long>(total - 1), static_cast<long long>(call.P));
    }
    const int64_t past = total - new_tokens(call, b);
    if (!kernel.evicts && past > call.past_rows) {
      return refuse(kernel.api, "%s: %lld past tokens in a cache of %lld rows", kName,
                    static_cast<long long>(past), static_cast<long long>(call.past_rows));
    }
  }
  return nullptr;
}

ort::Status* compute(void* data, ort::KernelContext* context) {
  const Kernel& kernel = *static_cast<const Kernel*>(data);
  const ort::Api* const api = kernel.api;
  size_t count = 0;
  RETURN_IF_FAILED(ort::GetInputCount::of(api)(context, &count));
  Tensor given[kInputs];
  for (size_t i = 0; i < count && i < kInputs; ++i) {
    RETURN_IF_FAILED(read_tensor(api, context, i, &given[i]));
  }
  Call call{};
  RETURN_IF_FAILED(read_shapes(kernel, given, &call));
  const bool scales = kernel.type == RowType::kInt8;
  const int64_t longest = *static_cast<const int32_t*>(given[kTotal].data);
  call.window = kernel.window;
  call.evicts = kernel.evicts;
  call.rotates = kernel.rotates;
  call.type = kernel.type;
  call.past_key = given[kPastKey].data;
  call.past_value = given[kPastValue].data;
  call.last_tokens = static_cast<const int32_t*>(given[kLastTokens].data);
  call.cos = static_cast<const float*>(given[kCos].data);
  call.sin = static_cast<const float*>(given[kSin].data);
  call.key_scales = scales ? static_cast<const float*>(given[kKeyScales].data) : nullptr;
  call.value_scales = scales ? static_cast<const float*>(given[kValueScales].data) : nullptr;
  RETURN_IF_FAILED(check_lengths(kernel, call, longest));
  call.present_rows =
      kernel.evicts || longest < call.past_rows ? call.past_rows : longest;

  const int64_t output_shape[] = {call.B, call.T, call.H * call.D};
  const int64_t cache_shape[] = {call.B, call.G, call.present_rows, call.D};
  void* outputs[kOutputs] = {};
  for (size_t i = 0; i < kOutputs; ++i) {
    ort::Value* value = nullptr;
    RETURN_IF_FAILED(ort::GetOutput::of(api)(context, i, i == 0 ? output_shape : cache_shape,
                                             i == 0 ? 3 : 4, &value));
    RETURN_IF_FAILED(ort::GetTensorMutableData::of(api)(value, &outputs[i]));
  }
  // Each head's rows lie elsewhere where there are more of them: heads would overwrite each other.
  const bool is_one_memory = outputs[1] == call.past_key || outputs[2] == call.past_value;
  if (is_one_memory && outputs[1] != nullptr && call.present_rows != call.past_rows) {
    return refuse(api, "%s: past and present are one memory of %lld rows; expected %lld rows", kName,
                  static_cast<long long>(call.past_rows), static_cast<long long>(call.present_rows));
  }
  call.output = static_cast<float*>(outputs[0]);
  call.present_key = outputs[1];
  call.present_value = outputs[2];
  const Kernels* const kernels = choose_kernels(static_cast<int>(call.D), nullptr);
  Pool pool{api, context, nullptr};
  const bool is_done = attend(call, *kernels, Threads{&pool, run_in_pool});
  if (pool.failed == nullptr && !is_done) return refuse(api, "%s: no memory for a call", kName);
  return pool.failed;
}

template <RowType type>
constexpr Operator make_operator() {
  Operator op{};
  op.version = ort::kApiVersion;
  op.type = type;
  op.get_name = [](const ort::CustomOp*) -> const char* { return kName; };
  op.get_execution_provider = [](const ort::CustomOp*) -> const char* { return nullptr; };
  op.get_input_count = [](const ort::CustomOp*) -> size_t { return kInputs; };
  op.get_output_count = [](const ort::CustomOp*) -> size_t { return kOutputs; };
  op.get_input_type = [](const ort::CustomOp*, size_t index) -> ort::ElementType {
    constexpr ort::ElementType rows = type == RowType::kFloat32   ? ort::kFloat
                                      : type == RowType::kFloat16 ? ort::kFloat16
                                                                  : ort::kInt8;
    if (index == kPastKey || index == kPastValue) return rows;
    if (index == kPositions || index == kMask) return ort::kInt64;
    return index == kLastTokens || index == kTotal ? ort::kInt32 : ort::kFloat;
  };
  op.get_output_type = [](const ort::CustomOp* self, size_t index) -> ort::ElementType {
    return index == 0 ? ort::kFloat : self->get_input_type(self, kPastKey);
  };
  op.get_input_characteristic = [](const ort::CustomOp*, size_t index) {
    const bool is_required = index == kQuery || (index >= kPastKey && index <= kTotal);
    return is_required ? ort::kRequired : ort::kOptional;
  };
  op.get_output_characteristic = [](const ort::CustomOp*, size_t) {
    return ort::kRequired;
  };
  op.get_input_memory_type = [](const ort::CustomOp*, size_t) -> int { return 0; };
  op.get_variadic_input_min_arity = [](const ort::CustomOp*) -> int { return 1; };
  op.get_variadic_input_homogeneity = op.get_variadic_input_min_arity;
  op.get_variadic_output_min_arity = op.get_variadic_input_min_arity;
  op.get_variadic_output_homogeneity = op.get_variadic_input_min_arity;
  op.get_start_version = [](const ort::CustomOp*) -> int { return kOperatorVersion; };
  op.get_end_version = op.get_start_version;
  op.create_kernel_v2 = create_kernel;
  op.compute_v2 = compute;
  op.destroy_kernel = destroy_kernel;
  return op;
}

// One for each type of the cache, under one name.
constexpr Operator kOperators[] = {
    make_operator<RowType::kFloat32>(),
    make_operator<RowType::kFloat16>(),
    make_operator<RowType::kInt8>(),
};

}  // namespace
}  // namespace tramontane

// The version of the operator that the library computes.
EXPORTED int tramontane_operator_version() { return tramontane::kOperatorVersion; }

// The version of the library.
EXPORTED const char* tramontane_version() { return VERSION; }

// The instruction set of the kernels that this processor takes for a head size; nullptr for none.
EXPORTED const char* tramontane_kernels(int head_size) {
  const tramontane::Kernels* const found = tramontane::choose_kernels(head_size, nullptr);
  return found == nullptr ? nullptr : found->name;
}

// What onnxruntime calls when the library is registered.
EXPORTED ort::Status* RegisterCustomOps(ort::SessionOptions* options,
                                                 const ort::ApiBase* base) {
  const ort::Api* const api = base->get_api(ort::kApiVersion);
  if (api == nullptr) {
    // An onnxruntime before 1.17. Its first function makes a status in every version.
    return ort::CreateStatus::of(base->get_api(1))(
        ort::kFail, "tramontane needs onnxruntime 1.17 or newer");
  }
  ort::CustomOpDomain* domain = nullptr;
  if (ort::Status* const failed = ort::CreateCustomOpDomain::of(api)(tramontane::kDomain, &domain)) {
    return failed;
  }
  for (const tramontane::Operator& one : tramontane::kOperators) {
    if (ort::Status* const failed = ort::CustomOpDomainAdd::of(api)(domain, &one)) return failed;
  }
  return ort::AddCustomOpDomain::of(api)(options, domain);
}
