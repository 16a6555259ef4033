// Exact attention with relative positions in few passes over the logits, for float32 on CPUs.
//
// A block is a few adjacent query pixels held in vectors: one instruction works on as many queries
// as a vector has lanes, and each value of a key is a scalar shared by all of them. Keys come in
// chunks whose logits stay in the L1 cache. A chunk that raises a query's largest logit rescales the
// sums so far (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018). The
// backward pass recomputes the logits, as in Dao et al., "FlashAttention", NeurIPS 2022.
//
// Pixels are those inside an image (valid_size), in row-major order: padding is never read. The
// length of loops over channels is a run-time value; making it a template parameter saved only 3 to
// 5 % of the time.
//
// The file needs only a compiler with GCC's vector extensions (GCC, Clang). It allocates nothing:
// native.py calls the functions at its end and owns all memory.

#include <atomic>
#include <cfloat>
#include <cstdint>
#include <cstring>
#include <initializer_list>

#define INLINE inline __attribute__((always_inline))

namespace {

constexpr int CHUNK = 32;       // keys whose logits are held at a time
constexpr int SEGMENT = 1024;   // queries per pass of the backward pass over all keys
constexpr int VECTORS = 4;      // vectors of queries in a block

struct View {  // (batch, heads, height, width, channels), strides in elements
  float* data;
  int64_t stride[5];
  float* image(int64_t batch, int64_t head) const {
    return data + batch * stride[0] + head * stride[1];
  }
};

}  // namespace

// Mirrors native.py, field by field. The fields from `grad` on are for the backward pass.
struct Problem {
  int64_t batch, heads, height, width, d_k, d_v;
  int64_t threads;
  int64_t table_h, table_w;    // rows of the tables
  const int64_t* valid_size;   // (batch, 2), or null
  const float *rel_h, *rel_w;  // (rows, d_k)
  double scale;
  View q, k, v, out;
  float *maximum, *total;  // (batch, heads, pixels): a query's largest logit, sum of exp(logit - it)
  float* workspace;
  View grad, grad_q, grad_k, grad_v;
  float *grad_rel_h, *grad_rel_w;
};

namespace {

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Hands out parts of the workspace. Without a workspace it only counts the floats needed.
struct Arena {
  float* start;
  int64_t used = 0;
  float* take(int64_t count) {
    float* part = start ? start + used : nullptr;
    used += divide_up(count, 16) * 16;
    return part;
  }
};

// How the work is split: a task is a part of the queries of one head of one image. The order of
// summation depends on this alone, not on which thread runs which task.
struct Plan {
  int64_t heads, parts, tasks, workers;  // parts of a head
  Plan(const Problem& p, int64_t queries) {
    heads = p.batch * p.heads;
    const int64_t pixels = p.height * p.width, blocks = divide_up(pixels, queries);
    workers = least(p.threads, 1 + heads * pixels * pixels / 65536);  // fewer if waking costs more
    parts = workers == 1 || !heads || !blocks ? 1 : least(divide_up(4 * workers, heads), blocks);
    tasks = heads * parts;
    workers = least(workers, tasks);
  }
};

struct Task {
  int64_t head, part, image, number;  // head: across all images; number: of the task
  int64_t height, width, pixels;      // real ones only
  Task(const Problem& p, const Plan& plan, int64_t number) : number(number) {
    head = number / plan.parts, part = number % plan.parts, image = head / p.heads;
    height = p.valid_size ? real(p.valid_size[2 * image], p.height) : p.height;
    width = p.valid_size ? real(p.valid_size[2 * image + 1], p.width) : p.width;
    pixels = height * width;
  }
  static int64_t real(int64_t size, int64_t all) { return size < 0 ? 0 : least(size, all); }
  float* of(const Problem& p, const View& view) const {
    return view.image(image, head % p.heads);
  }
};

int64_t table_row(int64_t distance, int64_t rows) {
  const int64_t last = (rows - 1) / 2;
  return (distance < -last ? -last : least(distance, last)) + last;
}

// GCC does not accept a vector_size that depends on a template parameter.
template <int LANES>
struct Vectors;
#define VECTORS_OF(LANES)                                                             \
  template <>                                                                         \
  struct Vectors<LANES> {                                                             \
    typedef float V __attribute__((vector_size(4 * LANES), aligned(4), may_alias));   \
    typedef int32_t I __attribute__((vector_size(4 * LANES), aligned(4), may_alias)); \
  }
VECTORS_OF(4);
VECTORS_OF(8);
VECTORS_OF(16);

#define FOUR(x) x, x, x, x
const float LOWEST[16] = {FOUR(-43.6f), FOUR(-43.6f), FOUR(-43.6f), FOUR(-43.6f)};

// Always inlined into a function for one instruction set, so that all of it is compiled for that
// set. A scalar times a vector compiles to a broadcast; an explicit vector of one scalar does not
// until that function is known, so there is none here.
template <int LANES>
struct Kernel {
  typedef typename Vectors<LANES>::V V;
  typedef typename Vectors<LANES>::I I;
  static constexpr int QUERIES = VECTORS * LANES;  // in a block
  static constexpr int TILE = 2;  // vectors at a time: with four keys they fill 16 registers

  static INLINE V load(const float* at) { return *reinterpret_cast<const V*>(at); }
  static INLINE void store(float* at, V x) { *reinterpret_cast<V*>(at) = x; }
  static INLINE V larger(V a, V b) { return a > b ? a : b; }  // b if one is NaN
  static INLINE void load_tile(V (&to)[TILE], const float* at) {
    for (int n = 0; n < TILE; n++) to[n] = load(at + n * LANES);
  }
  static INLINE void store_tile(float* at, const V (&from)[TILE]) {
    for (int n = 0; n < TILE; n++) store(at + n * LANES, from[n]);
  }
  static INLINE void store_some(float* at, V x, int64_t count) {
    if (count >= LANES)
      store(at, x);
    else
      std::memcpy(at, &x, 4 * count);
  }
  static void clear(float* at, int64_t count) { std::memset(at, 0, 4 * count); }

  // exp(x) for x <= 0, to a relative error of 2e-7. NaN stays NaN. Below -43.6 it is exp(-43.6):
  // no weight and no product of weights may be denormal, as denormals are several times slower.
  static INLINE V exponential(V x) {
    const float* lowest = LOWEST;
    asm("" : "+r"(lowest));  // given a constant, GCC emits compare and blend: two instructions
    x = larger(load(lowest), x);
    // exp(x) = 2**(n + f): adding 1.5 * 2**23 rounds to an integer, left in the lowest bits
    const float round = 12582912.0f + 127.0f, log2_e = 1.44269504f;
    const V shifted = x * log2_e + round;
    const V f = x * log2_e - (shifted - round);
    V y = f * 0.0013264727f + 0.009671513f;  // minimax polynomial of 2**f, 1 at 0
    y = y * f + 0.055507336f;
    y = y * f + 0.24022242f;
    y = y * f + 0.6931470f;
    y = y * f + 1.0f;
    const I power = reinterpret_cast<I>(shifted) << 23;
    return y * reinterpret_cast<V>(power);
  }

  // ---- the keys of one head of one image --------------------------------------------------------

  struct Keys {
    int64_t head = -1;      // whose keys these are
    int64_t count = 0;      // pixels, padded to a multiple of four with zeros that get no weight
    float *k, *v;           // [key][channel]
    int32_t *row, *column;  // indices into a Block's bias_h and bias_w
    float* rel_h;           // [distance + height - 1][channel]
    float* rel_w;           // [channel][width - 1 - distance]: a row of queries is a contiguous run
    int64_t rel_w_length;
  };

  static Keys keys_memory(const Problem& p, Arena& arena) {
    Keys keys;
    const int64_t most = divide_up(p.height * p.width, 4) * 4;
    keys.k = arena.take(most * p.d_k);
    keys.v = arena.take(most * p.d_v);
    keys.row = reinterpret_cast<int32_t*>(arena.take(most));
    keys.column = reinterpret_cast<int32_t*>(arena.take(most));
    keys.rel_h = arena.take((2 * p.height - 1) * p.d_k);
    keys.rel_w_length = 2 * p.width - 1 + LANES;
    keys.rel_w = arena.take(keys.rel_w_length * p.d_k);
    return keys;
  }

  static void pack(const Problem& p, const Task& task, Keys& keys) {
    if (keys.head == task.head) return;
    keys.head = task.head;
    keys.count = divide_up(task.pixels, 4) * 4;
    clear(keys.k + task.pixels * p.d_k, (keys.count - task.pixels) * p.d_k);
    clear(keys.v + task.pixels * p.d_v, (keys.count - task.pixels) * p.d_v);
    pack_channels(p.k, task.of(p, p.k), task, p.d_k, keys.k);
    pack_channels(p.v, task.of(p, p.v), task, p.d_v, keys.v);
    for (int64_t n = 0; n < keys.count; n++) {
      const bool real = n < task.pixels;
      keys.row[n] = QUERIES * (real ? n / task.width : task.height);
      keys.column[n] = QUERIES * (real ? n % task.width : task.width);
    }
    clear(keys.rel_w, keys.rel_w_length * p.d_k);
    for (int64_t r = 0; r < 2 * task.height - 1; r++) {
      const float* from = p.rel_h + table_row(r - (task.height - 1), p.table_h) * p.d_k;
      std::memcpy(keys.rel_h + r * p.d_k, from, 4 * p.d_k);
    }
    for (int64_t r = 0; r < 2 * task.width - 1; r++) {
      const float* from = p.rel_w + table_row(task.width - 1 - r, p.table_w) * p.d_k;
      for (int64_t c = 0; c < p.d_k; c++) keys.rel_w[c * keys.rel_w_length + r] = from[c];
    }
  }

  static void pack_channels(const View& view, const float* from, const Task& task,
                            int64_t channels, float* to) {
    for (int64_t i = 0; i < task.height; i++)
      for (int64_t c = 0; c < channels; c++) {
        const float* at = from + i * view.stride[2] + c * view.stride[4];
        float* pixel = to + i * task.width * channels + c;
        for (int64_t x = 0; x < task.width; x++) pixel[x * channels] = at[x * view.stride[3]];
      }
  }

  // ---- a block of queries -----------------------------------------------------------------------

  struct Block {
    int64_t first, count;     // pixels
    float *q, *maximum;       // [channel][query], times the scale; [query]
    float *bias_h, *bias_w;   // [key's row or column][query]: the position terms
  };

  // Loops overrun the queries of a block by less than a vector, and the rows by one: the row of the
  // padding keys.
  static int64_t positions(int64_t size) { return (size + 1) * QUERIES + LANES; }

  static Block block_memory(const Problem& p, Arena& arena) {
    Block block;
    block.q = arena.take(p.d_k * QUERIES + LANES);
    block.maximum = arena.take(QUERIES);
    block.bias_h = arena.take(positions(p.height));
    block.bias_w = arena.take(positions(p.width));
    return block;
  }

  static INLINE void begin(const Problem& p, const Task& task, const Keys& keys, int64_t index,
                           Block& block) {
    block.first = index * QUERIES;
    block.count = least(QUERIES, task.pixels - block.first);
    clear(block.q, p.d_k * QUERIES + LANES);
    clear(block.bias_h, positions(task.height));
    clear(block.bias_w, positions(task.width));
    load_channels(p.q, task.of(p, p.q), task, block, p.d_k, p.scale, block.q);
    add_positions(p, task, keys, block);
    for (int n = 0; n < QUERIES; n++)
      block.bias_h[task.height * QUERIES + n] = block.bias_w[task.width * QUERIES + n] = -FLT_MAX / 8;
  }

  // to[channel][query]
  static void load_channels(const View& view, const float* from, const Task& task,
                            const Block& block, int64_t channels, float factor, float* to) {
    for (int64_t c = 0; c < channels; c++, to += QUERIES) {
      int64_t i = block.first / task.width, x = block.first % task.width;
      for (int64_t n = 0; n < block.count; n++) {
        to[n] = factor * from[i * view.stride[2] + x * view.stride[3] + c * view.stride[4]];
        if (++x == task.width) x = 0, i++;
      }
    }
  }

  static void store_channels(const View& view, float* to, const Task& task, const Block& block,
                             int64_t channels, float factor, const float* from) {
    for (int64_t c = 0; c < channels; c++, from += QUERIES) {
      int64_t i = block.first / task.width, x = block.first % task.width;
      for (int64_t n = 0; n < block.count; n++) {
        to[i * view.stride[2] + x * view.stride[3] + c * view.stride[4]] = factor * from[n];
        if (++x == task.width) x = 0, i++;
      }
    }
  }

  // Queries of a block that are adjacent in one row of the map.
  struct Run {
    int64_t row, column, offset, count;
    Run(const Task& task, const Block& block, int64_t offset) : offset(offset) {
      row = (block.first + offset) / task.width;
      column = (block.first + offset) % task.width;
      count = least(task.width - column, block.count - offset);
    }
  };

  static INLINE void add_positions(const Problem& p, const Task& task, const Keys& keys,
                                   Block& block) {
    for (int64_t offset = 0; offset < block.count;) {
      const Run run(task, block, offset);
      for (int64_t t = 0; t < run.count; t += LANES) {
        const float* q = block.q + offset + t;
        for (int64_t j = 0; j < task.height; j++) {
          const float* r = keys.rel_h + (j - run.row + task.height - 1) * p.d_k;
          V sum = {};
          for (int64_t c = 0; c < p.d_k; c++) sum += load(q + c * QUERIES) * r[c];
          store_some(block.bias_h + j * QUERIES + offset + t, sum, run.count - t);
        }
        for (int64_t y = 0; y < task.width; y++) {
          const float* r = keys.rel_w + run.column + t - y + task.width - 1;
          V sum = {};
          for (int64_t c = 0; c < p.d_k; c++)
            sum += load(q + c * QUERIES) * load(r + c * keys.rel_w_length);
          store_some(block.bias_w + y * QUERIES + offset + t, sum, run.count - t);
        }
      }
      offset += run.count;
    }
  }

  // ---- products of a tile of queries with keys --------------------------------------------------

  // sum[key][query] += x[channel][query] * y[key][channel], four keys
  static INLINE void multiply(V (&sum)[4][TILE], const float* x, const float* y,
                              int64_t channels) {
    for (int64_t c = 0; c < channels; c++) {
      V a[TILE];
      load_tile(a, x + c * QUERIES);
      for (int i = 0; i < 4; i++) {
        const float b = y[i * channels + c];
        for (int n = 0; n < TILE; n++) sum[i][n] += a[n] * b;
      }
    }
  }

  // For four keys and the queries from `query` on.
  static INLINE void logits(V (&sum)[4][TILE], int64_t d_k, const Keys& keys, int64_t key,
                            const Block& block, int query) {
    for (int i = 0; i < 4; i++) {
      V bias[TILE];
      load_tile(sum[i], block.bias_h + keys.row[key + i] + query);
      load_tile(bias, block.bias_w + keys.column[key + i] + query);
      for (int n = 0; n < TILE; n++) sum[i][n] += bias[n];
    }
    multiply(sum, block.q + query, keys.k + key * d_k, d_k);
  }

  // to[channel][query] = factor[query] * to[channel][query]
  //                      + the sum over keys of weights[key][query] * x[key][channel]
  template <int CHANNELS>
  static INLINE void accumulate(const float* weights, int64_t count, const float* x, int64_t length,
                                float* to, const V (&factor)[TILE]) {
    V sum[CHANNELS][TILE] = {};
    for (int64_t key = 0; key < count; key++, weights += QUERIES, x += length) {
      V weight[TILE];
      load_tile(weight, weights);
      for (int c = 0; c < CHANNELS; c++)
        for (int n = 0; n < TILE; n++) sum[c][n] += weight[n] * x[c];
    }
    for (int c = 0; c < CHANNELS; c++) {
      V before[TILE];
      load_tile(before, to + c * QUERIES);
      for (int n = 0; n < TILE; n++) sum[c][n] += factor[n] * before[n];
      store_tile(to + c * QUERIES, sum[c]);
    }
  }

  static INLINE void accumulate(const float* weights, int64_t count, const float* x,
                                int64_t channels, float* to, const V (&factor)[TILE]) {
    int64_t c = 0;
    for (; c + 8 <= channels; c += 8)
      accumulate<8>(weights, count, x + c, channels, to + c * QUERIES, factor);
    x += c, to += c * QUERIES;
    switch (channels - c) {
      case 7: return accumulate<7>(weights, count, x, channels, to, factor);
      case 6: return accumulate<6>(weights, count, x, channels, to, factor);
      case 5: return accumulate<5>(weights, count, x, channels, to, factor);
      case 4: return accumulate<4>(weights, count, x, channels, to, factor);
      case 3: return accumulate<3>(weights, count, x, channels, to, factor);
      case 2: return accumulate<2>(weights, count, x, channels, to, factor);
      case 1: return accumulate<1>(weights, count, x, channels, to, factor);
    }
  }

  // ---- forward ----------------------------------------------------------------------------------

  struct Forward {
    Keys keys;
    Block block;
    float *weights, *total, *out;  // [key][query], [query], [channel][query]
    Forward(const Problem& p, const Plan&, Arena& arena)
        : keys(keys_memory(p, arena)),
          block(block_memory(p, arena)),
          weights(arena.take(CHUNK * QUERIES)),
          total(arena.take(QUERIES)),
          out(arena.take(p.d_v * QUERIES)) {}

    INLINE void run(const Problem& p, const Plan& plan, const Task& task, float*) {
      if (!task.pixels) return;
      pack(p, task, keys);
      const int64_t blocks = divide_up(task.pixels, QUERIES);
      const int64_t end = blocks * (task.part + 1) / plan.parts;
      for (int64_t i = blocks * task.part / plan.parts; i < end; i++) {
        begin(p, task, keys, i, block);
        for (int n = 0; n < QUERIES; n++) block.maximum[n] = -FLT_MAX;
        clear(total, QUERIES);
        clear(out, p.d_v * QUERIES);
        for (int64_t key = 0; key < keys.count; key += CHUNK)
          for (int query = 0; query < block.count; query += TILE * LANES)
            add_chunk(p, key, least(CHUNK, keys.count - key), query);
        for (int query = 0; query < QUERIES; query += LANES)
          for (int64_t c = 0; c < p.d_v; c++)
            store(out + c * QUERIES + query,
                  load(out + c * QUERIES + query) / load(total + query));
        store_channels(p.out, task.of(p, p.out), task, block, p.d_v, 1, out);
        const int64_t at = task.head * p.height * p.width + block.first;
        std::memcpy(p.maximum + at, block.maximum, 4 * block.count);
        std::memcpy(p.total + at, total, 4 * block.count);
      }
    }

    INLINE void add_chunk(const Problem& p, int64_t first, int64_t count, int query) {
      V before[TILE], most[TILE], sum[TILE];
      load_tile(before, block.maximum + query);
      load_tile(most, block.maximum + query);
      for (int64_t key = 0; key < count; key += 4) {
        V logit[4][TILE];
        logits(logit, p.d_k, keys, first + key, block, query);
        for (int i = 0; i < 4; i++) {
          store_tile(weights + (key + i) * QUERIES + query, logit[i]);
          for (int n = 0; n < TILE; n++) most[n] = larger(logit[i][n], most[n]);
        }
      }
      store_tile(block.maximum + query, most);

      load_tile(sum, total + query);
      for (int n = 0; n < TILE; n++) {
        before[n] = exponential(before[n] - most[n]);
        sum[n] *= before[n];
      }
      for (int64_t key = 0; key < count; key++) {
        V x[TILE];
        load_tile(x, weights + key * QUERIES + query);
        for (int n = 0; n < TILE; n++) {
          x[n] = exponential(x[n] - most[n]);
          sum[n] += x[n];
        }
        store_tile(weights + key * QUERIES + query, x);
      }
      store_tile(total + query, sum);
      accumulate(weights + query, count, keys.v + first * p.d_v, p.d_v, out + query, before);
    }
  };

  // ---- backward ---------------------------------------------------------------------------------

  // With w = exp(logit - maximum) / total, a logit's gradient is w * (grad·v - grad·out). The
  // division is applied to `grad`, once for all keys.
  struct Share {
    Block block;
    float *grad, *minus_out;  // [channel][query], [query]
    float* grad_q;            // [channel][query]
    float *grad_h, *grad_w;   // like Block's bias_h, bias_w
  };

  // The size of one task's gradients of the tables, by distance.
  static int64_t table_floats(const Problem& p) {
    return (2 * p.height - 1 + 2 * p.width - 1) * p.d_k;
  }

  struct Backward {
    Keys keys;
    Share shares[SEGMENT / QUERIES];
    float *weights, *grad_logits;  // [key][query]
    float* sums;                   // [key][channel of k, then of v][lane]
    float* out;                    // [channel][query]
    float* grad_rel_h;             // [distance + height - 1][channel][lane]
    float* grad_rel_w;             // like Keys.rel_w
    float* grad_kv;                // [key][channel of k, then of v], if a head is one task

    Backward(const Problem& p, const Plan& plan, Arena& arena) : keys(keys_memory(p, arena)) {
      const int64_t pixels = p.height * p.width, channels = p.d_k + p.d_v;
      const int64_t blocks = divide_up(divide_up(pixels, QUERIES), plan.parts);
      for (int64_t i = 0; i < least(SEGMENT / QUERIES, blocks); i++) {
        Share& share = shares[i];
        share.block = block_memory(p, arena);
        share.grad = arena.take(p.d_v * QUERIES);
        share.minus_out = arena.take(QUERIES);
        share.grad_q = arena.take(p.d_k * QUERIES);
        share.grad_h = arena.take(positions(p.height));
        share.grad_w = arena.take(positions(p.width));
      }
      weights = arena.take(CHUNK * QUERIES);
      grad_logits = arena.take(CHUNK * QUERIES);
      sums = arena.take(CHUNK * channels * LANES);
      out = arena.take(p.d_v * QUERIES);
      grad_rel_h = arena.take((2 * p.height - 1) * p.d_k * LANES);
      grad_rel_w = arena.take(keys.rel_w_length * p.d_k);
      grad_kv = plan.parts == 1 ? arena.take(pixels * channels) : nullptr;
    }

    // What tasks leave behind: the gradients of the tables, those of k and v if a head has several
    // tasks, and how many tasks of a head are done.
    struct Results {
      float *tables, *grad_kv;
      std::atomic<int32_t>* done;
      Results(const Problem& p, const Plan& plan, Arena& arena) {
        const int64_t pixels = p.height * p.width, channels = p.d_k + p.d_v;
        tables = arena.take(plan.tasks * table_floats(p));
        grad_kv = plan.parts == 1 ? nullptr : arena.take(plan.tasks * pixels * channels);
        done = reinterpret_cast<std::atomic<int32_t>*>(arena.take(plan.heads));
      }
    };

    INLINE void run(const Problem& p, const Plan& plan, const Task& task, float* memory) {
      Arena arena{memory};
      Results results(p, plan, arena);
      float* tables = results.tables + task.number * table_floats(p);
      clear(tables, table_floats(p));
      if (!task.pixels) return;
      const int64_t channels = p.d_k + p.d_v, per_task = p.height * p.width * channels;
      float* own = plan.parts == 1 ? grad_kv : results.grad_kv + task.number * per_task;
      clear(own, task.pixels * channels);
      clear(grad_rel_h, (2 * task.height - 1) * p.d_k * LANES);
      clear(grad_rel_w, keys.rel_w_length * p.d_k);
      pack(p, task, keys);

      const int64_t blocks = divide_up(task.pixels, QUERIES);
      const int64_t end = blocks * (task.part + 1) / plan.parts;
      for (int64_t i = blocks * task.part / plan.parts; i < end; i += SEGMENT / QUERIES) {
        const int count = least(SEGMENT / QUERIES, end - i);
        for (int n = 0; n < count; n++) begin_share(p, task, i + n, shares[n]);
        for (int64_t key = 0; key < keys.count; key += CHUNK)
          add_chunk(p, task, key, count, own + key * channels);
        for (int n = 0; n < count; n++) end_share(p, task, shares[n]);
      }
      store_tables(p, task, tables);

      if (results.done[task.head].fetch_add(1, std::memory_order_acq_rel) + 1 < plan.parts) return;
      const float* first = own - task.part * per_task;  // they follow each other
      add_parts(p.grad_k, task.of(p, p.grad_k), task, p.d_k, first, channels, per_task, plan.parts);
      add_parts(p.grad_v, task.of(p, p.grad_v), task, p.d_v, first + p.d_k, channels, per_task,
                plan.parts);
    }

    INLINE void begin_share(const Problem& p, const Task& task, int64_t index, Share& share) {
      Block& block = share.block;
      begin(p, task, keys, index, block);
      clear(share.grad, p.d_v * QUERIES);
      clear(block.maximum, QUERIES);
      clear(share.minus_out, QUERIES);
      clear(share.grad_q, p.d_k * QUERIES);
      clear(share.grad_h, positions(task.height));
      clear(share.grad_w, positions(task.width));
      load_channels(p.grad, task.of(p, p.grad), task, block, p.d_v, 1, share.grad);
      load_channels(p.out, task.of(p, p.out), task, block, p.d_v, 1, out);
      const int64_t at = task.head * p.height * p.width + block.first;
      std::memcpy(block.maximum, p.maximum + at, 4 * block.count);
      for (int n = 0; n < block.count; n++)
        for (int64_t c = 0; c < p.d_v; c++) {
          float& grad = share.grad[c * QUERIES + n];
          grad /= p.total[at + n];
          share.minus_out[n] -= grad * out[c * QUERIES + n];
        }
    }

    // Processes all queries of the segment with one chunk of keys.
    INLINE void add_chunk(const Problem& p, const Task& task, int64_t first, int shares_count,
                          float* to) {
      const int64_t count = least(CHUNK, keys.count - first), channels = p.d_k + p.d_v;
      clear(sums, count * channels * LANES);
      for (int i = 0; i < shares_count; i++) {
        Share& share = shares[i];
        for (int query = 0; query < share.block.count; query += TILE * LANES)
          add_to_queries(p, first, count, share, query);
        float* sums_v = sums + p.d_k * LANES;
        if (share.block.count > TILE * LANES) {
          add_to_keys<VECTORS>(grad_logits, count, share.block.q, p.d_k, sums, channels);
          add_to_keys<VECTORS>(weights, count, share.grad, p.d_v, sums_v, channels);
        } else {
          add_to_keys<TILE>(grad_logits, count, share.block.q, p.d_k, sums, channels);
          add_to_keys<TILE>(weights, count, share.grad, p.d_v, sums_v, channels);
        }
      }
      const int64_t real = least(count, task.pixels - first);
      for (int64_t n = 0; n < real * channels; n++) to[n] += sum_of(sums + n * LANES);
    }

    // Computes a chunk's weights and logit gradients, and adds the latter to the queries' gradients.
    INLINE void add_to_queries(const Problem& p, int64_t first, int64_t count, Share& share,
                               int query) {
      V most[TILE], minus_out[TILE], one[TILE];
      load_tile(most, share.block.maximum + query);
      load_tile(minus_out, share.minus_out + query);
      for (int n = 0; n < TILE; n++) one[n] = V{} + 1.0f;
      for (int64_t key = 0; key < count; key += 4) {
        float* weight = weights + key * QUERIES + query;
        float* grad_logit = grad_logits + key * QUERIES + query;
        V x[4][TILE];
        logits(x, p.d_k, keys, first + key, share.block, query);
        for (int i = 0; i < 4; i++) {
          for (int n = 0; n < TILE; n++) x[i][n] = exponential(x[i][n] - most[n]);
          store_tile(weight + i * QUERIES, x[i]);
        }
        for (int i = 0; i < 4; i++)
          for (int n = 0; n < TILE; n++) x[i][n] = minus_out[n];
        multiply(x, share.grad + query, keys.v + (first + key) * p.d_v, p.d_v);
        for (int i = 0; i < 4; i++) {
          V y[TILE];
          load_tile(y, weight + i * QUERIES);
          for (int n = 0; n < TILE; n++) x[i][n] *= y[n];
          store_tile(grad_logit + i * QUERIES, x[i]);
          for (float* by_position : {share.grad_h + keys.row[first + key + i] + query,
                                     share.grad_w + keys.column[first + key + i] + query}) {
            load_tile(y, by_position);
            for (int n = 0; n < TILE; n++) y[n] += x[i][n];
            store_tile(by_position, y);
          }
        }
      }
      accumulate(grad_logits + query, count, keys.k + first * p.d_k, p.d_k, share.grad_q + query,
                 one);
    }

    // to[key][channel][lane] += the sum over a lane's queries of
    //                           weights[key][query] * x[channel][query]
    template <int COUNT>
    static INLINE void add_to_keys(const float* weights, int64_t count, const float* x,
                                   int64_t channels, float* to, int64_t length) {
      constexpr int AT_ONCE = LANES == 16 ? 4 : 2;  // channels, limited by the number of registers
      int64_t c = 0;
      for (; c + AT_ONCE <= channels; c += AT_ONCE)
        add_to_keys<AT_ONCE, COUNT>(weights, count, x + c * QUERIES, to + c * LANES, length);
      for (; c < channels; c++)
        add_to_keys<1, COUNT>(weights, count, x + c * QUERIES, to + c * LANES, length);
    }

    template <int CHANNELS, int COUNT>
    static INLINE void add_to_keys(const float* weights, int64_t count, const float* x, float* to,
                                   int64_t length) {
      V y[CHANNELS][COUNT];
      for (int c = 0; c < CHANNELS; c++)
        for (int n = 0; n < COUNT; n++) y[c][n] = load(x + c * QUERIES + n * LANES);
      for (int64_t key = 0; key < count; key++, to += length * LANES, weights += QUERIES) {
        V weight[COUNT];
        for (int n = 0; n < COUNT; n++) weight[n] = load(weights + n * LANES);
        for (int c = 0; c < CHANNELS; c++) {
          V sum = load(to + c * LANES);
          for (int n = 0; n < COUNT; n++) sum += weight[n] * y[c][n];
          store(to + c * LANES, sum);
        }
      }
    }

    // Adds the gradients of a block's position terms to its queries and the tables.
    INLINE void end_share(const Problem& p, const Task& task, Share& share) {
      for (int64_t offset = 0; offset < share.block.count;) {
        const Run run(task, share.block, offset);
        for (int64_t t = 0; t < run.count; t += LANES) {
          I inside;  // mask of the lanes inside the run
          for (int n = 0; n < LANES; n++) inside[n] = t + n < run.count ? -1 : 0;
          const float* q = share.block.q + offset + t;
          const float* grad_h = share.grad_h + offset + t;
          const float* grad_w = share.grad_w + offset + t;
          const int64_t by_row = (task.height - 1 - run.row) * p.d_k;
          const int64_t by_column = run.column + t + task.width - 1;
          for (int64_t c = 0; c < p.d_k; c++) {
            float* grad_q = share.grad_q + c * QUERIES + offset + t;
            V sum = {};
            for (int64_t j = 0; j < task.height; j++)
              sum += load(grad_h + j * QUERIES) * keys.rel_h[by_row + j * p.d_k + c];
            const float* rel_w = keys.rel_w + c * keys.rel_w_length + by_column;
            for (int64_t y = 0; y < task.width; y++)
              sum += load(grad_w + y * QUERIES) * load(rel_w - y);
            store_some(grad_q, load(grad_q) + sum, run.count - t);
          }
          for (int64_t j = 0; j < task.height; j++) {
            const V grad = inside ? load(grad_h + j * QUERIES) : V{};
            float* to = grad_rel_h + (by_row + j * p.d_k) * LANES;
            for (int64_t c = 0; c < p.d_k; c++)
              store(to + c * LANES, load(to + c * LANES) + grad * load(q + c * QUERIES));
          }
          // the loop over channels is inside: the vectors of two columns overlap, and loading what
          // was just partly stored stalls
          for (int64_t y = 0; y < task.width; y++) {
            const V grad = inside ? load(grad_w + y * QUERIES) : V{};
            for (int64_t c = 0; c < p.d_k; c++) {
              float* to = grad_rel_w + c * keys.rel_w_length + by_column - y;
              store(to, load(to) + grad * load(q + c * QUERIES));
            }
          }
        }
        offset += run.count;
      }
      store_channels(p.grad_q, task.of(p, p.grad_q), task, share.block, p.d_k, p.scale,
                     share.grad_q);
    }

    void store_tables(const Problem& p, const Task& task, float* tables) const {
      float* rows = tables + (p.height - task.height) * p.d_k;
      for (int64_t n = 0; n < (2 * task.height - 1) * p.d_k; n++)
        rows[n] = sum_of(grad_rel_h + n * LANES);
      float* columns = tables + (2 * p.height - 1 + p.width - task.width) * p.d_k;
      const int64_t last = 2 * task.width - 2;
      for (int64_t r = 0; r <= last; r++)
        for (int64_t c = 0; c < p.d_k; c++)
          columns[r * p.d_k + c] = grad_rel_w[c * keys.rel_w_length + last - r];
    }

    static INLINE float sum_of(const float* lanes) {
      float sum[LANES];
      std::memcpy(sum, lanes, sizeof sum);
      for (int half = LANES / 2; half; half /= 2)
        for (int n = 0; n < half; n++) sum[n] += sum[n + half];
      return sum[0];
    }

    static void add_parts(const View& view, float* to, const Task& task, int64_t channels,
                          const float* from, int64_t length, int64_t per_task, int64_t parts) {
      for (int64_t i = 0; i < task.height; i++)
        for (int64_t c = 0; c < channels; c++)
          for (int64_t x = 0; x < task.width; x++) {
            float sum = 0;
            for (int64_t part = 0; part < parts; part++)
              sum += from[part * per_task + (i * task.width + x) * length + c];
            to[i * view.stride[2] + x * view.stride[3] + c * view.stride[4]] = sum;
          }
    }

    // Sums in task order, whichever thread ran which task, so that results are reproducible.
    static void add_tables(const Problem& p, const Plan& plan, const float* from) {
      clear(p.grad_rel_h, p.table_h * p.d_k);
      clear(p.grad_rel_w, p.table_w * p.d_k);
      for (int64_t task = 0; task < plan.tasks; task++) {
        add_table(p.height, p.d_k, p.table_h, from, p.grad_rel_h);
        add_table(p.width, p.d_k, p.table_w, from + (2 * p.height - 1) * p.d_k, p.grad_rel_w);
        from += table_floats(p);
      }
    }

    static void add_table(int64_t size, int64_t d_k, int64_t rows, const float* from, float* to) {
      for (int64_t r = 0; r < 2 * size - 1; r++) {
        float* row = to + table_row(r - (size - 1), rows) * d_k;
        for (int64_t c = 0; c < d_k; c++) row[c] += from[r * d_k + c];
      }
    }
  };
};

// ---- one call -----------------------------------------------------------------------------------

// State shared by the threads.
struct Job {
  const Problem& problem;
  const Plan plan;
  float *results, *workers;  // memory
  int64_t worker_floats;
  std::atomic<int64_t> next_worker{0}, next_task{0};
};

// The body of each thread: runs tasks until none are left.
template <class Pass>
INLINE void work(void* shared) {
  Job& job = *static_cast<Job*>(shared);
  Arena arena{job.workers + job.next_worker.fetch_add(1) * job.worker_floats};
  Pass pass(job.problem, job.plan, arena);
  for (int64_t n; (n = job.next_task.fetch_add(1)) < job.plan.tasks;)
    pass.run(job.problem, job.plan, Task(job.problem, job.plan, n), job.results);
}

typedef void Work(void*);

#define WORK(NAME, LANES, ...)                                                              \
  __VA_ARGS__ void NAME##_forward(void* job) { work<typename Kernel<LANES>::Forward>(job); } \
  __VA_ARGS__ void NAME##_backward(void* job) { work<typename Kernel<LANES>::Backward>(job); }

WORK(baseline, 4)  // SSE2, NEON and others
#ifdef __x86_64__
WORK(avx2, 8, __attribute__((target("avx2,fma"))))
WORK(avx512, 16, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))))
#endif

struct InstructionSet {
  const char* name;
  int lanes;
  Work *forward, *backward;
  bool supported;
};

// Best first.
const InstructionSet* instruction_set(int index) {
#ifdef __x86_64__
  __builtin_cpu_init();
  static const InstructionSet sets[] = {
      {"AVX-512", 16, avx512_forward, avx512_backward,
       __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("fma")},
      {"AVX2", 8, avx2_forward, avx2_backward,
       __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")},
      {"SSE2", 4, baseline_forward, baseline_backward, true},
  };
#else
  static const InstructionSet sets[] = {
      {"baseline", 4, baseline_forward, baseline_backward, true},
  };
#endif
  for (const InstructionSet& set : sets)
    if (set.supported && index-- == 0) return &set;
  return nullptr;
}

// GCC's OpenMP entry point, which every OpenMP library provides: call a function in several threads.
typedef void Parallel(Work*, void*, unsigned threads, unsigned flags);

// Without `parallel` it only returns how many floats the workspace needs.
template <int LANES>
int64_t run(const Problem& p, bool backward, Work* work, Parallel* parallel) {
  typedef typename Kernel<LANES>::Forward Forward;
  typedef typename Kernel<LANES>::Backward Backward;
  const Plan plan(p, Kernel<LANES>::QUERIES);
  Arena results{nullptr}, worker{nullptr};
  if (backward) {
    typename Backward::Results(p, plan, results);
    Backward(p, plan, worker);
  } else {
    Forward(p, plan, worker);
  }
  if (!parallel) return results.used + plan.workers * worker.used;

  Job job{p, plan, p.workspace, p.workspace + results.used, worker.used};
  if (backward) {
    Arena arena{p.workspace};
    const typename Backward::Results memory(p, plan, arena);
    for (int64_t n = 0; n < plan.heads; n++) memory.done[n] = 0;
  }
  if (plan.workers > 1)
    parallel(work, &job, plan.workers, 0);
  else if (plan.workers == 1)
    work(&job);
  if (backward) Backward::add_tables(p, plan, p.workspace);  // where the table gradients are
  return 0;
}

int64_t run(const Problem& p, bool backward, int index, Parallel* parallel) {
  const InstructionSet& set = *instruction_set(index);
  Work* work = backward ? set.backward : set.forward;
  switch (set.lanes) {
    case 16: return run<16>(p, backward, work, parallel);
    case 8: return run<8>(p, backward, work, parallel);
    default: return run<4>(p, backward, work, parallel);
  }
}

}  // namespace

extern "C" {

// Raised with every change of the interface; native.py refuses any other version.
int aa_version() { return 1; }

// The name of this machine's instruction set `index`, 0 being the best; null past the last.
const char* aa_instruction_set(int index) {
  const InstructionSet* set = instruction_set(index);
  return set ? set->name : nullptr;
}

// Floats that `workspace` must hold.
int64_t aa_workspace(const Problem* p, int backward, int set) {
  return run(*p, backward, set, nullptr);
}

void aa_attention(const Problem* p, int backward, int set, Parallel* parallel) {
  run(*p, backward, set, parallel);
}
}
