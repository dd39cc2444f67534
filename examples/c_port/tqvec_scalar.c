/* tqvec_scalar in C99, one file, judged through the subprocess protocol (docs/oracle.md):

     cc -O2 -o c_port examples/c_port/tqvec_scalar.c -lm && tqvec verify ./c_port

   `c_port describe` prints what there is; `c_port STAGE IN OUT` reads tensors from one safetensors file and writes
   another. The parser below reads what tqvec writes, not every JSON. Little-endian machines only. */

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { void *data; long shape[2]; } Tensor; /* a vector of n is n x 1 */

static char *header;
static unsigned char *payload;

static void fail(const char *message) { fprintf(stderr, "%s\n", message); exit(1); }

static void *allocate(size_t size) {
    void *found = calloc(size ? size : 1, 1);
    if (!found) fail("out of memory");
    return found;
}

static void read_file(const char *path) {
    FILE *file = fopen(path, "rb");
    uint64_t size;
    if (!file || fread(&size, 8, 1, file) != 1) fail("can't read the input");
    header = allocate(size + 1);
    if (fread(header, 1, size, file) != size) fail("the input is cut short");
    long start = ftell(file);
    fseek(file, 0, SEEK_END);
    long rest = ftell(file) - start;
    fseek(file, start, SEEK_SET);
    payload = allocate((size_t)rest);
    if (fread(payload, 1, (size_t)rest, file) != (size_t)rest) fail("the input is cut short");
    fclose(file);
}

static Tensor tensor(const char *name) {
    char key[64];
    Tensor found = {NULL, {0, 1}};
    long first = 0;
    snprintf(key, sizeof key, "\"%s\":{\"dtype\"", name);
    char *entry = strstr(header, key);
    if (!entry) { fprintf(stderr, "no tensor %s\n", name); exit(1); }
    char *shape = strstr(entry, "\"shape\":["), *offsets = strstr(entry, "\"data_offsets\":[");
    if (sscanf(shape, "\"shape\":[%ld,%ld", &found.shape[0], &found.shape[1]) < 1) fail("bad shape");
    if (sscanf(offsets, "\"data_offsets\":[%ld", &first) != 1) fail("bad offsets");
    found.data = payload + first;
    return found;
}

static long metadata(const char *name) {
    char key[64];
    snprintf(key, sizeof key, "\"%s\":\"", name);
    char *entry = strstr(header, key);
    if (!entry) fail("metadata is missing");
    return strtol(entry + strlen(key), NULL, 10);
}

/* One or two outputs, in the order of their names here. */
typedef struct { const char *name, *kind; Tensor tensor; size_t item; } Output;

static void write_file(const char *path, Output *outputs, int count) {
    char text[512] = "{";
    size_t at = 0, length = 1;
    for (int i = 0; i < count; i++) {
        Output *o = &outputs[i];
        size_t size = (size_t)o->tensor.shape[0] * (size_t)(o->tensor.shape[1] ? o->tensor.shape[1] : 1) * o->item;
        char shape[48];
        if (o->tensor.shape[1]) snprintf(shape, sizeof shape, "%ld,%ld", o->tensor.shape[0], o->tensor.shape[1]);
        else snprintf(shape, sizeof shape, "%ld", o->tensor.shape[0]);
        length += (size_t)snprintf(text + length, sizeof text - length,
            "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
            i ? "," : "", o->name, o->kind, shape, at, at + size);
        at += size;
    }
    text[length++] = '}';
    uint64_t size = length;
    FILE *file = fopen(path, "wb");
    if (!file) fail("can't write the output");
    fwrite(&size, 8, 1, file);
    fwrite(text, 1, length, file);
    for (int i = 0; i < count; i++) {
        Output *o = &outputs[i];
        size_t items = (size_t)o->tensor.shape[0] * (size_t)(o->tensor.shape[1] ? o->tensor.shape[1] : 1);
        fwrite(o->tensor.data, o->item, items, file);
    }
    if (fclose(file)) fail("can't write the output");
}

/* ---- the codec ---- */

static long d, nbits;

static double length_of(const float *x) {
    double sum = 0;
    for (long j = 0; j < d; j++) sum += (double)x[j] * x[j];
    return sqrt(sum);
}

static void normalize(const float *x, float *unit) {
    double norm = length_of(x);
    for (long j = 0; j < d; j++) unit[j] = norm > 0 ? (float)(x[j] * (1 / norm)) : 0.0f;
}

static void transform(float *w, const int32_t *blocks, long count) {
    for (long b = 0; b < count; w += blocks[b++])
        for (long h = 1; h < blocks[b]; h *= 2)
            for (long i = 0; i < blocks[b]; i += 2 * h)
                for (long j = i; j < i + h; j++) {
                    float p = w[j], q = w[j + h];
                    w[j] = p + q;
                    w[j + h] = p - q;
                }
}

static float factor(const int8_t *signs, const int32_t *blocks, long j) {
    long end = 0, b = 0;
    while (j >= (end += blocks[b])) b++;
    return (float)(signs[j] / sqrt((double)blocks[b]));
}

static void rotate(const float *v, float *w, int backwards) {
    Tensor permutation = tensor("table.permutation"), signs = tensor("table.signs"), blocks = tensor("table.blocks");
    const int32_t *sizes = blocks.data;
    float *before = allocate((size_t)d * sizeof(float));
    memcpy(w, v, (size_t)d * sizeof(float));
    for (long k = 0; k < permutation.shape[0]; k++) {
        long r = backwards ? permutation.shape[0] - 1 - k : k;
        const int32_t *p = (const int32_t *)permutation.data + r * d;
        const int8_t *s = (const int8_t *)signs.data + r * d;
        if (backwards) transform(w, sizes, blocks.shape[0]);
        memcpy(before, w, (size_t)d * sizeof(float));
        for (long j = 0; j < d; j++) {
            if (backwards) w[p[j]] = before[j] * factor(s, sizes, j);
            else w[j] = before[p[j]] * factor(s, sizes, j);
        }
        if (!backwards) transform(w, sizes, blocks.shape[0]);
    }
    free(before);
}

static void quantize(const float *y, uint8_t *codes) {
    const float *thresholds = tensor("table.thresholds").data;
    for (long j = 0; j < d; j++) {
        codes[j] = 0;
        for (long t = 0; t < (1L << nbits) - 1; t++) codes[j] += y[j] > thresholds[t];
    }
}

static void dequantize(const uint8_t *codes, float *levels) {
    const float *centroids = tensor("table.centroids").data;
    for (long j = 0; j < d; j++) levels[j] = centroids[codes[j]];
}

static float scale_of(const float *x, const float *y, const uint8_t *codes) {
    const float *centroids = tensor("table.centroids").data;
    double norm = length_of(x), dot = 0;
    for (long j = 0; j < d; j++) dot += (double)y[j] * centroids[codes[j]];
    return norm > 0 ? (float)(norm / dot) : 0.0f;
}

static long code_bytes(void) { return (d * nbits + 7) / 8; }

static void pack(const uint8_t *codes, uint8_t *packed) {
    memset(packed, 0, (size_t)code_bytes());
    for (long i = 0; i < d * nbits; i++) {
        int bit = codes[i % d] >> (nbits - 1 - i / d) & 1;
        packed[i / 8] |= (uint8_t)(bit << (i % 8));
    }
}

static void unpack(const uint8_t *packed, uint8_t *codes) {
    memset(codes, 0, (size_t)d);
    for (long i = 0; i < d * nbits; i++)
        codes[i % d] |= (uint8_t)((packed[i / 8] >> (i % 8) & 1) << (nbits - 1 - i / d));
}

static void decode(const uint8_t *packed, float scale, float *decoded) {
    uint8_t *codes = allocate((size_t)d);
    float *levels = allocate((size_t)d * sizeof(float)), shrink = *(float *)tensor("table.shrink").data;
    unpack(packed, codes);
    dequantize(codes, levels);
    rotate(levels, decoded, 1);
    for (long j = 0; j < d; j++) decoded[j] *= shrink * scale;
    free(codes);
    free(levels);
}

static float score(const float *rotated_query, const uint8_t *packed, float scale) {
    uint8_t *codes = allocate((size_t)d);
    const float *centroids = tensor("table.centroids").data;
    float sum = 0;
    unpack(packed, codes);
    for (long j = 0; j < d; j++) sum += rotated_query[j] * centroids[codes[j]];
    free(codes);
    return sum * scale;
}

static void attention(const float *scores, long n, const Tensor packed, const float *scale, float *output) {
    float largest = scores[0], total = 0, *value = allocate((size_t)d * sizeof(float));
    for (long i = 1; i < n; i++) largest = scores[i] > largest ? scores[i] : largest;
    memset(output, 0, (size_t)d * sizeof(float));
    for (long i = 0; i < n; i++) {
        float weight = expf((scores[i] - largest) / sqrtf((float)d));
        total += weight;
        decode((uint8_t *)packed.data + i * packed.shape[1], scale[i], value);
        for (long j = 0; j < d; j++) output[j] += weight * value[j];
    }
    for (long j = 0; j < d; j++) output[j] /= total;
    free(value);
}

/* ---- the protocol ---- */

static Output output(const char *name, const char *kind, long rows, long columns, size_t item) {
    Output made = {name, kind, {NULL, {rows, columns}}, item};
    made.tensor.data = allocate((size_t)rows * (size_t)(columns ? columns : 1) * item);
    return made;
}

#define FLOATS(name, rows, columns) output(name, "F32", rows, columns, sizeof(float))
#define BYTES(name, rows, columns) output(name, "U8", rows, columns, 1)
#define EACH_ROW(in, statement) for (long i = 0; i < (in).shape[0]; i++) { statement; }

int main(int argc, char **argv) {
    if (argc == 2 && !strcmp(argv[1], "describe")) {
        puts("{\"stages\": [\"normalize\", \"rotate\", \"quantize\", \"dequantize\", \"unrotate\", \"scale\", \"pack\","
             " \"unpack\", \"encode\", \"decode\", \"score\", \"attention\"], \"profiles\": [\"tqvec_scalar\"]}");
        return 0;
    }
    if (argc != 4) fail("usage: c_port describe | c_port STAGE IN OUT");
    read_file(argv[2]);
    const char *stage = argv[1];
    d = metadata("d");
    nbits = metadata("nbits");
    Output out[2];
    int count = 1;
    if (!strcmp(stage, "normalize")) {
        Tensor x = tensor("x");
        out[0] = FLOATS("unit", x.shape[0], d);
        EACH_ROW(x, normalize((float *)x.data + i * d, (float *)out[0].tensor.data + i * d))
    } else if (!strcmp(stage, "rotate") || !strcmp(stage, "unrotate")) {
        int backwards = stage[0] == 'u';
        Tensor v = tensor(backwards ? "levels" : "unit");
        out[0] = FLOATS(backwards ? "vectors" : "rotated", v.shape[0], d);
        EACH_ROW(v, rotate((float *)v.data + i * d, (float *)out[0].tensor.data + i * d, backwards))
    } else if (!strcmp(stage, "quantize")) {
        Tensor y = tensor("rotated");
        out[0] = BYTES("codes", y.shape[0], d);
        EACH_ROW(y, quantize((float *)y.data + i * d, (uint8_t *)out[0].tensor.data + i * d))
    } else if (!strcmp(stage, "dequantize")) {
        Tensor codes = tensor("codes");
        out[0] = FLOATS("levels", codes.shape[0], d);
        EACH_ROW(codes, dequantize((uint8_t *)codes.data + i * d, (float *)out[0].tensor.data + i * d))
    } else if (!strcmp(stage, "scale")) {
        Tensor x = tensor("x"), y = tensor("rotated"), codes = tensor("codes");
        out[0] = FLOATS("scale", x.shape[0], 0);
        EACH_ROW(x, ((float *)out[0].tensor.data)[i] = scale_of((float *)x.data + i * d, (float *)y.data + i * d,
                                                               (uint8_t *)codes.data + i * d))
    } else if (!strcmp(stage, "pack")) {
        Tensor codes = tensor("codes");
        out[0] = BYTES("packed", codes.shape[0], code_bytes());
        EACH_ROW(codes, pack((uint8_t *)codes.data + i * d, (uint8_t *)out[0].tensor.data + i * code_bytes()))
    } else if (!strcmp(stage, "unpack")) {
        Tensor packed = tensor("packed");
        out[0] = BYTES("codes", packed.shape[0], d);
        EACH_ROW(packed, unpack((uint8_t *)packed.data + i * code_bytes(), (uint8_t *)out[0].tensor.data + i * d))
    } else if (!strcmp(stage, "encode")) {
        Tensor x = tensor("x");
        float *unit = allocate((size_t)d * sizeof(float)), *y = allocate((size_t)d * sizeof(float));
        uint8_t *codes = allocate((size_t)d);
        count = 2;
        out[0] = BYTES("packed", x.shape[0], code_bytes());
        out[1] = FLOATS("scale", x.shape[0], 0);
        for (long i = 0; i < x.shape[0]; i++) {
            normalize((float *)x.data + i * d, unit);
            rotate(unit, y, 0);
            quantize(y, codes);
            pack(codes, (uint8_t *)out[0].tensor.data + i * code_bytes());
            ((float *)out[1].tensor.data)[i] = scale_of((float *)x.data + i * d, y, codes);
        }
    } else if (!strcmp(stage, "decode")) {
        Tensor packed = tensor("packed"), scale = tensor("scale");
        out[0] = FLOATS("decoded", packed.shape[0], d);
        EACH_ROW(packed, decode((uint8_t *)packed.data + i * code_bytes(), ((float *)scale.data)[i],
                                (float *)out[0].tensor.data + i * d))
    } else if (!strcmp(stage, "score") || !strcmp(stage, "attention")) {
        Tensor queries = tensor("queries"), packed = tensor("packed"), scale = tensor("scale");
        long n = packed.shape[0];
        float *rotated = allocate((size_t)d * sizeof(float));
        Output scores = FLOATS("scores", queries.shape[0], n);
        out[0] = stage[0] == 's' ? scores : FLOATS("output", queries.shape[0], d);
        for (long q = 0; q < queries.shape[0]; q++) {
            float *row = (float *)scores.tensor.data + q * n;
            rotate((float *)queries.data + q * d, rotated, 0);
            EACH_ROW(packed, row[i] = score(rotated, (uint8_t *)packed.data + i * code_bytes(), ((float *)scale.data)[i]))
            if (stage[0] == 'a')
                attention(row, n, tensor("packed_v"), tensor("scale_v").data, (float *)out[0].tensor.data + q * d);
        }
    } else fail("no such stage");
    write_file(argv[3], out, count);
    return 0;
}
