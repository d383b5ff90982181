#include "text/utf8.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

void nb_str_fini(nb_str *s)
{
    free(s->data);
    *s = (nb_str){0};
}

nb_status nb_str_reserve(nb_str *s, size_t more)
{
    if (more <= s->capacity - s->n) return NB_OK;
    size_t wanted = s->n + more;
    size_t capacity = s->capacity < 32 ? 64 : s->capacity * 2;
    if (capacity < wanted) capacity = wanted;
    char *data = more > SIZE_MAX / 4 ? NULL : realloc(s->data, capacity);
    if (!data) return nb_fail(NB_E_SYSTEM, "out of memory for a text of %zu bytes", wanted);
    s->data = data;
    s->capacity = capacity;
    return NB_OK;
}

nb_status nb_str_append(nb_str *s, const char *data, size_t n)
{
    if (n == 0) return NB_OK;
    NB_TRY(nb_str_reserve(s, n));
    memcpy(s->data + s->n, data, n);
    s->n += n;
    return NB_OK;
}

nb_status nb_str_append_char(nb_str *s, uint32_t c)
{
    NB_TRY(nb_str_reserve(s, 4));
    s->n += (size_t)nb_utf8_encode(c, s->data + s->n);
    return NB_OK;
}

/* Range of the second byte after a lead byte: Unicode table 3-7. */
static void second_byte_range(unsigned lead, unsigned *low, unsigned *high)
{
    *low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    *high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
}

/* Bytes of the well-formed character at s, or minus the bytes of the ill-formed sequence. */
static int scan(const char *s, size_t n)
{
    unsigned lead = (unsigned char)s[0];
    if (lead < 0x80) return 1;
    if (lead < 0xC2 || lead > 0xF4) return -1;
    int bytes = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    unsigned low, high;
    second_byte_range(lead, &low, &high);
    for (int i = 1; i < bytes; i++) {
        unsigned next = (size_t)i < n ? (unsigned char)s[i] : 0;
        if (next < low || next > high) return -i;
        low = 0x80;
        high = 0xBF;
    }
    return bytes;
}

nb_status nb_str_append_lossy(nb_str *s, const char *data, size_t n)
{
    for (size_t i = 0; i < n;) {
        int bytes = scan(data + i, n - i);
        if (bytes > 0) {
            NB_TRY(nb_str_append(s, data + i, (size_t)bytes));
            i += (size_t)bytes;
        } else {
            NB_TRY(nb_str_append_char(s, 0xFFFD));
            i += (size_t)-bytes;
        }
    }
    return NB_OK;
}

size_t nb_utf8_check(const char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        int bytes = scan(s + i, n - i);
        if (bytes < 0) return i;
        i += (size_t)bytes;
    }
    return n;
}

int nb_utf8_bytes(char lead)
{
    unsigned c = (unsigned char)lead;
    return c < 0xC0 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
}

uint32_t nb_utf8_decode(const char *s, int *bytes)
{
    const unsigned char *u = (const unsigned char *)s;
    *bytes = nb_utf8_bytes(s[0]);
    switch (*bytes) {
    case 1:
        return u[0];
    case 2:
        return (u[0] & 0x1Fu) << 6 | (u[1] & 0x3Fu);
    case 3:
        return (u[0] & 0x0Fu) << 12 | (u[1] & 0x3Fu) << 6 | (u[2] & 0x3Fu);
    default:
        return (u[0] & 0x07u) << 18 | (u[1] & 0x3Fu) << 12 | (u[2] & 0x3Fu) << 6 |
               (u[3] & 0x3Fu);
    }
}

int nb_utf8_encode(uint32_t c, char out[4])
{
    assert(c <= 0x10FFFF);
    int bytes = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const unsigned char lead[5] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (int i = bytes - 1; i > 0; i--, c >>= 6) out[i] = (char)(0x80 | (c & 0x3F));
    out[0] = (char)(lead[bytes] | c);
    return bytes;
}

int nb_is_white_space(uint32_t c)
{
    if (c < 0x80) return c == ' ' || (c >= 9 && c <= 13);
    return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
           c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

size_t nb_white_space_prefix(const char *s, size_t n)
{
    size_t i = 0;
    while (i < n) {
        int bytes;
        if (!nb_is_white_space(nb_utf8_decode(s + i, &bytes))) break;
        i += (size_t)bytes;
    }
    return i;
}

size_t nb_white_space_suffix(const char *s, size_t n)
{
    size_t end = n;
    while (end > 0) {
        size_t start = end - 1;
        while (start > 0 && ((unsigned char)s[start] & 0xC0) == 0x80) start--;
        int bytes;
        if (!nb_is_white_space(nb_utf8_decode(s + start, &bytes))) break;
        end = start;
    }
    return n - end;
}
