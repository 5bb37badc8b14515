// Memory that is freed with its owner. No exceptions: a failed allocation is reported.
#pragma once

#include <cstdint>
#include <cstdlib>

namespace tramontane {

template <typename T>
class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(data_); }

  // Allocates, without setting values; false where there is no memory.
  bool reset(int64_t count) {
    std::free(data_);
    data_ = static_cast<T*>(std::malloc(static_cast<size_t>(count > 0 ? count : 1) * sizeof(T)));
    return data_ != nullptr;
  }

  T* data() { return data_; }
  const T* data() const { return data_; }
  T& operator[](int64_t i) { return data_[i]; }
  const T& operator[](int64_t i) const { return data_[i]; }

 private:
  T* data_ = nullptr;
};

}  // namespace tramontane
