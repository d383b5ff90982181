#include "cli/prompt.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "text/utf8.h"

enum { MAX_BYTES = 16 << 20 };

nb_status nb_prompt_check(const char *name, const char *text)
{
    size_t bytes = strlen(text), at = nb_utf8_check(text, bytes);
    if (at == bytes) return NB_OK;
    return nb_fail(NB_E_DATA, "%s: wanted UTF-8, found byte 0x%02x at offset %zu", name,
                   (unsigned char)text[at], at);
}

static nb_status read_stream(FILE *stream, const char *name, nb_str *text)
{
    char block[16384];
    size_t n;
    while ((n = fread(block, 1, sizeof block, stream)) > 0) {
        if (text->n + n > MAX_BYTES)
            return nb_fail(NB_E_DATA, "%s: wanted a prompt of at most %d bytes, found more",
                           name, (int)MAX_BYTES);
        NB_TRY(nb_str_append(text, block, n));
    }
    if (ferror(stream))
        return nb_fail(NB_E_IO, "%s: cannot be read: %s", name, strerror(errno));
    if (text->n && memchr(text->data, 0, text->n))
        return nb_fail(NB_E_DATA, "%s: wanted text, found a NUL byte at offset %zu", name,
                       (size_t)((char *)memchr(text->data, 0, text->n) - text->data));
    /* Editors and echo end a file by a newline that nobody meant as part of the prompt. */
    while (text->n && strchr("\r\n", text->data[text->n - 1])) text->n--;
    return nb_str_append(text, "", 1);
}

nb_status nb_prompt_read_file(const char *path, char **out)
{
    struct stat st;
    nb_str text = {0};
    const char *name = path ? path : "stdin";
    FILE *stream = path ? fopen(path, "rb") : stdin;
    if (!stream) return nb_fail(NB_E_NOINPUT, "%s: cannot be read: %s", name, strerror(errno));
    nb_status status = fstat(fileno(stream), &st) == 0 && S_ISDIR(st.st_mode)
                           ? nb_fail(NB_E_NOINPUT, "%s: wanted a file, found a folder", name)
                           : read_stream(stream, name, &text);
    if (path) fclose(stream);
    if (!status) status = nb_prompt_check(name, text.data);
    if (status)
        nb_str_fini(&text);
    else
        *out = text.data;
    return status;
}

nb_status nb_prompt_read_lines(const char *path, nb_prompt_lines *out)
{
    nb_prompt_lines p = {.n = 0};
    NB_TRY(nb_prompt_read_file(path, &p.text));
    size_t room = 1;
    for (const char *c = p.text; *c; c++) room += *c == '\n';
    p.lines = calloc(room, sizeof *p.lines);
    if (!p.lines) {
        free(p.text);
        return nb_fail(NB_E_SYSTEM, "out of memory: %zu prompts", room);
    }
    char *rest = p.text;
    for (char *line; (line = strsep(&rest, "\n"));) {
        line[strcspn(line, "\r")] = 0;
        if (*line && *line != '#') p.lines[p.n++] = line;
    }
    if (p.n) {
        *out = p;
        return NB_OK;
    }
    nb_prompt_lines_fini(&p);
    return nb_fail(NB_E_DATA, "%s: wanted a prompt a line, found none", path);
}

void nb_prompt_lines_fini(nb_prompt_lines *p)
{
    free(p->lines);
    free(p->text);
}

static nb_status join_words(const nb_parsed *parsed, char **out)
{
    size_t bytes = 1;
    for (int i = 0; i < parsed->n_words; i++) bytes += strlen(parsed->words[i]) + 1;
    char *text = malloc(bytes), *at = text;
    if (!text) return nb_fail(NB_E_SYSTEM, "out of memory: a prompt of %zu bytes", bytes);
    for (int i = 0; i < parsed->n_words; i++) {
        size_t n = strlen(parsed->words[i]);
        if (i) *at++ = ' ';
        memcpy(at, parsed->words[i], n);
        at += n;
    }
    *at = 0;
    *out = text;
    return NB_OK;
}

static nb_status from_text(char *text, char **out)
{
    nb_status status;
    if (!strcmp(text, "-")) {
        free(text);
        return nb_prompt_read_file(NULL, out);
    }
    status = nb_prompt_check("prompt", text);
    if (status)
        free(text);
    else
        *out = text;
    return status;
}

nb_status nb_prompt_read(const nb_parsed *parsed, const char *prompt, const char *file,
                         char **out)
{
    int words = parsed->n_words ? NB_FROM_ARGV : -1;
    int flag = prompt ? (int)nb_parsed_source(parsed, "prompt") : -1;
    int path = file ? (int)nb_parsed_source(parsed, "prompt-file") : -1;
    char *text = NULL;
    if (words < 0 && flag < 0 && path < 0)
        return nb_fail(NB_E_USAGE, "no prompt: wanted words, --prompt, --prompt-file or - for "
                                   "stdin, found none of them");
    if (words >= 0 && words == flag)
        return nb_fail(NB_E_USAGE,
                       "two prompts: the word %.60s and --prompt; quote a prompt "
                       "of several words",
                       parsed->words[0]);
    if (path >= 0 && (path == words || path == flag))
        return nb_fail(NB_E_USAGE, "two prompts: --prompt-file and %s",
                       path == words ? "words" : "--prompt");
    if (path > flag && path > words) return nb_prompt_read_file(file, out);
    if (words > flag)
        NB_TRY(join_words(parsed, &text));
    else if (!(text = strdup(prompt)))
        return nb_fail(NB_E_SYSTEM, "out of memory: the prompt");
    return from_text(text, out);
}
