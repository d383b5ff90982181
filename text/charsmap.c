#include "text/charsmap.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

enum { WHOLE_CLUSTER_BYTES = 6 }; /* clusters shorter than this are looked up as a whole */

struct nb_charsmap {
    nb_str blob;
    const unsigned char *units;
    size_t n_units;
    const char *strings;
    size_t strings_bytes; /* the last one is 0 */
};

static uint32_t read_u32(const unsigned char *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint32_t unit_offset(uint32_t unit)
{
    return (unit >> 10) << ((unit & 0x200) >> 6);
}

static nb_status check(const char *path, nb_charsmap *map)
{
    const unsigned char *data = (const unsigned char *)map->blob.data;
    size_t n = map->blob.n;
    uint32_t trie_bytes = n >= 4 ? read_u32(data) : 0;
    if (n < 4 || trie_bytes > n - 4 || trie_bytes % 4 != 0 || trie_bytes == 0)
        return nb_fail(NB_E_DATA,
                       "%s: precompiled_charsmap: a trie of %u bytes does not fit in %zu bytes",
                       path, (unsigned)trie_bytes, n);
    map->units = data + 4;
    map->n_units = trie_bytes / 4;
    map->strings = (const char *)data + 4 + trie_bytes;
    map->strings_bytes = n - 4 - trie_bytes;
    if (map->strings_bytes && map->strings[map->strings_bytes - 1] != '\0')
        return nb_fail(NB_E_DATA, "%s: precompiled_charsmap: the replacements are cut off",
                       path);
    size_t bad = nb_utf8_check(map->strings, map->strings_bytes);
    if (bad < map->strings_bytes)
        return nb_fail(NB_E_DATA,
                       "%s: precompiled_charsmap: replacement text is not UTF-8 at byte %zu",
                       path, bad);
    return NB_OK;
}

/* Takes the bytes of *blob, on failure too. */
static nb_status create(const char *path, nb_str *blob, nb_charsmap **out)
{
    nb_charsmap *map = calloc(1, sizeof *map);
    if (!map) {
        nb_str_fini(blob);
        return nb_fail(NB_E_SYSTEM, "out of memory for a character map");
    }
    map->blob = *blob;
    *blob = (nb_str){0};
    nb_status status = check(path, map);
    if (status != NB_OK)
        nb_charsmap_destroy(map);
    else
        *out = map;
    return status;
}

nb_status nb_charsmap_create(const char *path, const char *blob, size_t bytes,
                             nb_charsmap **out)
{
    nb_str copy = {0};
    NB_TRY(nb_str_append(&copy, blob, bytes));
    return create(path, &copy, out);
}

static int base64_digit(char c)
{
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

static nb_status decode_base64(const char *path, const char *base64, nb_str *out)
{
    size_t n = strlen(base64);
    size_t padding = n && base64[n - 1] == '=' ? 1 + (n > 1 && base64[n - 2] == '=') : 0;
    if (n % 4)
        return nb_fail(NB_E_DATA,
                       "%s: precompiled_charsmap: %zu digits of base64 are not whole", path, n);
    NB_TRY(nb_str_reserve(out, n / 4 * 3 + 1));
    uint32_t bits = 0;
    for (size_t i = 0; i < n; i++) {
        int digit = i < n - padding ? base64_digit(base64[i]) : 0;
        if (digit < 0)
            return nb_fail(NB_E_DATA, "%s: precompiled_charsmap: byte %zu is no base64", path,
                           i);
        bits = bits << 6 | (uint32_t)digit;
        if (i % 4 != 3) continue;
        for (int k = 16; k >= 0; k -= 8) out->data[out->n++] = (char)(bits >> k & 0xFF);
        bits = 0;
    }
    out->n -= padding;
    return NB_OK;
}

nb_status nb_charsmap_create_base64(const char *path, const char *base64, nb_charsmap **out)
{
    nb_str blob = {0};
    nb_status status = decode_base64(path, base64, &blob);
    if (status == NB_OK) return create(path, &blob, out);
    nb_str_fini(&blob);
    return status;
}

void nb_charsmap_destroy(nb_charsmap *map)
{
    if (!map) return;
    nb_str_fini(&map->blob);
    free(map);
}

/* The replacement of the shortest beginning of s[0..n) that has one, NULL if none has. A
 * damaged trie that points outside simply matches nothing. */
static const char *shortest_match(const nb_charsmap *map, const char *s, size_t n)
{
    uint32_t at = unit_offset(read_u32(map->units));
    for (size_t i = 0; i < n && s[i]; i++) {
        uint32_t byte = (unsigned char)s[i];
        at ^= byte;
        if (at >= map->n_units) return NULL;
        uint32_t unit = read_u32(map->units + 4 * (size_t)at);
        if ((unit & 0x800000FFu) != byte) return NULL;
        at ^= unit_offset(unit);
        if (at >= map->n_units) return NULL;
        if (!(unit & 0x100)) continue;
        uint32_t value = read_u32(map->units + 4 * (size_t)at) & 0x7FFFFFFF;
        return value < map->strings_bytes ? map->strings + value : NULL;
    }
    return NULL;
}

static nb_status apply_cluster(const nb_charsmap *map, const char *cluster, size_t n,
                               nb_str *out)
{
    const char *found = n < WHOLE_CLUSTER_BYTES ? shortest_match(map, cluster, n) : NULL;
    if (found) return nb_str_append(out, found, strlen(found));
    for (size_t i = 0; i < n;) {
        size_t bytes = (size_t)nb_utf8_bytes(cluster[i]);
        found = shortest_match(map, cluster + i, bytes);
        if (found)
            NB_TRY(nb_str_append(out, found, strlen(found)));
        else
            NB_TRY(nb_str_append(out, cluster + i, bytes));
        i += bytes;
    }
    return NB_OK;
}

nb_status nb_charsmap_apply(const nb_charsmap *map, const char *text, size_t n, nb_str *out)
{
    size_t start = 0;
    int32_t state = 0;
    uint32_t previous = 0;
    for (size_t i = 0; i < n;) {
        int bytes;
        uint32_t c = nb_utf8_decode(text + i, &bytes);
        if (i > 0 && utf8proc_grapheme_break_stateful((int32_t)previous, (int32_t)c, &state)) {
            NB_TRY(apply_cluster(map, text + start, i - start, out));
            start = i;
        }
        previous = c;
        i += (size_t)bytes;
    }
    return n > start ? apply_cluster(map, text + start, n - start, out) : NB_OK;
}
