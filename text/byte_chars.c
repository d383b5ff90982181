#include "text/byte_chars.h"

static int is_printable(unsigned byte)
{
    return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}

/* Bytes without a character of their own below this one: 0-32, 127-160, 173. */
static uint32_t char_of(unsigned byte)
{
    if (is_printable(byte)) return byte;
    return 256 + (byte <= 32 ? byte : byte <= 160 ? byte - 127 + 33 : 67);
}

static int byte_of(uint32_t c)
{
    if (c < 256) return is_printable(c) ? (int)c : -1;
    c -= 256;
    return c <= 32 ? (int)c : c <= 66 ? (int)(c - 33 + 127) : c == 67 ? 173 : -1;
}

nb_status nb_byte_chars_encode(const char *bytes, size_t n, nb_str *out)
{
    NB_TRY(nb_str_reserve(out, 2 * n));
    for (size_t i = 0; i < n; i++)
        out->n += (size_t)nb_utf8_encode(char_of((unsigned char)bytes[i]), out->data + out->n);
    return NB_OK;
}

nb_status nb_byte_chars_decode(const char *text, size_t n, nb_str *out)
{
    size_t start = out->n;
    NB_TRY(nb_str_reserve(out, n));
    for (size_t i = 0; i < n;) {
        int length;
        int byte = byte_of(nb_utf8_decode(text + i, &length));
        if (byte < 0) {
            out->n = start;
            return nb_str_append(out, text, n);
        }
        out->data[out->n++] = (char)byte;
        i += (size_t)length;
    }
    return NB_OK;
}
