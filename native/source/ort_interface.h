// The parts of onnxruntime's C interface that this library uses.
//
// Declared here from the published, append-only layout, so that no header of onnxruntime is needed
// to build. Functions of OrtApi are read from a table by their place, which never changes.
// Source: onnxruntime, include/onnxruntime/core/session/onnxruntime_c_api.h, API version 17.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(_WIN32)
#define EXPORTED extern "C" __declspec(dllexport)
#else
#define EXPORTED extern "C" __attribute__((visibility("default")))
#endif

namespace ort {

static_assert(sizeof(void*) == 8, "32-bit Windows would call by another convention");

constexpr uint32_t kApiVersion = 17;  // the first with all that is used here

struct Status;
struct SessionOptions;
struct CustomOpDomain;
struct KernelInfo;
struct KernelContext;
struct Value;
struct TensorInfo;

enum ErrorCode : int { kFail = 1, kInvalidArgument = 2 };

enum ElementType : int { kFloat = 1, kInt8 = 3, kInt32 = 6, kInt64 = 7, kFloat16 = 10 };

enum Characteristic : int { kRequired = 0, kOptional = 1 };

constexpr int kFunctions = 275;  // of version 17

// A table of function pointers.
struct Api {
  void* functions[kFunctions];
};

struct ApiBase {
  const Api*(*get_api)(uint32_t version);
  const char*(*get_version)();
};

// The place of each function in the table, and its type.
template <int place, typename Signature>
struct Function {
  static_assert(place < kFunctions, "later versions have this function, ours has not");
  static Signature* of(const Api* api) {
    return reinterpret_cast<Signature*>(api->functions[place]);
  }
};

using CreateStatus = Function<0, Status*(ErrorCode, const char*)>;
using CreateCustomOpDomain = Function<26, Status*(const char*, CustomOpDomain**)>;
using CustomOpDomainAdd = Function<27, Status*(CustomOpDomain*, const struct CustomOp*)>;
using AddCustomOpDomain = Function<28, Status*(SessionOptions*, CustomOpDomain*)>;
using GetTensorMutableData = Function<51, Status*(const Value*, void**)>;
using GetTensorElementType = Function<60, Status*(const TensorInfo*, ElementType*)>;
using GetDimensionsCount = Function<61, Status*(const TensorInfo*, size_t*)>;
using GetDimensions = Function<62, Status*(const TensorInfo*, int64_t*, size_t)>;
using GetTensorTypeAndShape = Function<65, Status*(const Value*, TensorInfo**)>;
using GetAttributeInt64 = Function<86, Status*(const KernelInfo*, const char*, int64_t*)>;
using GetInputCount = Function<88, Status*(const KernelContext*, size_t*)>;
using GetInput = Function<90, Status*(const KernelContext*, size_t, const Value**)>;
using GetOutput =
    Function<91, Status*(KernelContext*, size_t, const int64_t*, size_t, Value**)>;
using ReleaseStatus = Function<93, void(Status*)>;
using ReleaseTensorInfo = Function<99, void(TensorInfo*)>;
using ParallelFor = Function<274, Status*(const KernelContext*, void (*)(void*, size_t),
                                                   size_t, size_t, void*)>;

// What onnxruntime asks of a custom operator.
struct CustomOp {
  uint32_t version;
  void*(*create_kernel)(const CustomOp*, const Api*, const KernelInfo*);
  const char*(*get_name)(const CustomOp*);
  const char*(*get_execution_provider)(const CustomOp*);
  ElementType(*get_input_type)(const CustomOp*, size_t);
  size_t(*get_input_count)(const CustomOp*);
  ElementType(*get_output_type)(const CustomOp*, size_t);
  size_t(*get_output_count)(const CustomOp*);
  void(*compute)(void*, KernelContext*);
  void(*destroy_kernel)(void*);
  Characteristic(*get_input_characteristic)(const CustomOp*, size_t);
  Characteristic(*get_output_characteristic)(const CustomOp*, size_t);
  int(*get_input_memory_type)(const CustomOp*, size_t);
  int(*get_variadic_input_min_arity)(const CustomOp*);
  int(*get_variadic_input_homogeneity)(const CustomOp*);
  int(*get_variadic_output_min_arity)(const CustomOp*);
  int(*get_variadic_output_homogeneity)(const CustomOp*);
  Status*(*create_kernel_v2)(const CustomOp*, const Api*, const KernelInfo*, void**);
  Status*(*compute_v2)(void*, KernelContext*);
  Status*(*infer_output_shape)(const CustomOp*, void*);
  int(*get_start_version)(const CustomOp*);
  int(*get_end_version)(const CustomOp*);
  size_t(*get_may_inplace)(int**, int**);
  void(*release_may_inplace)(int*, int*);
  size_t(*get_alias_map)(int**, int**);
  void(*release_alias_map)(int*, int*);
};

static_assert(sizeof(CustomOp) == 26 * sizeof(void*), "onnxruntime reads the fields by offset");

}  // namespace ort
