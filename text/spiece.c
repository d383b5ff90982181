/*
 * spiece.model: a SentencePiece ModelProto on the wire (proto2). Read are
 *   1 pieces {1 text, 2 score, 3 type}, 2 trainer {3 model_type, 35 byte_fallback, 40 unk_id},
 *   3 normalizer {2 precompiled_charsmap, 3 add_dummy_prefix};
 * everything else is skipped. Source: sentencepiece_model.proto.
 */
#include <stdio.h>
#include <string.h>

#include "kernels/base/file.h"
#include "text/tokenizer_parts.h"

/* The pipeline of T5's tokenizer.json. */
static const char PIPELINE[] =
    "{\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": ["
    "  {\"type\": \"Strip\", \"strip_left\": false, \"strip_right\": true},"
    "  {\"type\": \"Replace\", \"pattern\": {\"Regex\": \" {2,}\"}, \"content\": \"\u2581\"}]},"
    " \"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": \"\u2581\","
    "  \"prepend_scheme\": \"first\"},"
    " \"decoder\": {\"type\": \"Metaspace\", \"replacement\": \"\u2581\","
    "  \"prepend_scheme\": \"always\"}}";

typedef struct reader {
    const unsigned char *at, *end;
} reader;

typedef struct field {
    uint32_t number, wire_type;
    uint64_t value; /* varint, or the bits of a fixed number */
    reader bytes;   /* of a length-delimited one */
} field;

typedef struct model {
    nb_str scores; /* of doubles, one a piece */
    int32_t n_pieces;
    int64_t model_type, unk_id;
    int byte_fallback, dummy_prefix;
    reader charsmap;
} model;

/* 0 if the varint is cut off or too long. */
static int read_varint(reader *r, uint64_t *out)
{
    uint64_t value = 0;
    for (int shift = 0; shift < 64 && r->at < r->end; shift += 7) {
        unsigned byte = *r->at++;
        value |= (uint64_t)(byte & 0x7F) << shift;
        if (byte & 0x80) continue;
        *out = value;
        return 1;
    }
    return 0;
}

static int read_fixed(reader *r, int bytes, uint64_t *out)
{
    if (r->end - r->at < bytes) return 0;
    *out = 0;
    for (int i = 0; i < bytes; i++) *out |= (uint64_t)*r->at++ << 8 * i;
    return 1;
}

/* 0 if the field is damaged. */
static int read_field(reader *r, field *f)
{
    uint64_t key, n;
    if (!read_varint(r, &key)) return 0;
    *f = (field){.number = (uint32_t)(key >> 3), .wire_type = key & 7};
    switch (f->wire_type) {
    case 0:
        return read_varint(r, &f->value);
    case 1:
        return read_fixed(r, 8, &f->value);
    case 5:
        return read_fixed(r, 4, &f->value);
    case 2:
        if (!read_varint(r, &n) || n > (uint64_t)(r->end - r->at)) return 0;
        f->bytes = (reader){r->at, r->at + n};
        r->at += n;
        return 1;
    default:
        return 0;
    }
}

static nb_status damaged(const nb_tokenizer *t, const char *what)
{
    return nb_fail(NB_E_DATA, "%s: not a SentencePiece model: %s is damaged or cut off",
                   t->path, what);
}

static nb_status read_piece(nb_tokenizer *t, reader r, model *m)
{
    reader text = {0};
    float score = 0;
    field f;
    while (r.at < r.end) {
        if (!read_field(&r, &f)) return damaged(t, "a piece");
        if (f.number == 1 && f.wire_type == 2) text = f.bytes;
        if (f.number == 2 && f.wire_type == 5) {
            uint32_t bits = (uint32_t)f.value;
            memcpy(&score, &bits, sizeof score);
        }
    }
    size_t n = (size_t)(text.end - text.at);
    const char *piece = (const char *)text.at;
    if (n && nb_utf8_check(piece, n) < n)
        return nb_fail(NB_E_DATA, "%s: piece %d is not UTF-8", t->path, (int)m->n_pieces);
    double value = (double)score;
    NB_TRY(nb_str_append(&m->scores, (const char *)&value, sizeof value));
    nb_status status = nb_vocab_add(&t->vocab, m->n_pieces++, n ? piece : "", n);
    return status == NB_OK ? NB_OK : nb_fail_context(status, "%s", t->path);
}

static nb_status read_trainer(const nb_tokenizer *t, reader r, model *m)
{
    field f;
    while (r.at < r.end) {
        if (!read_field(&r, &f)) return damaged(t, "the trainer's part");
        if (f.wire_type != 0) continue;
        if (f.number == 3) m->model_type = (int64_t)f.value;
        if (f.number == 35) m->byte_fallback = f.value != 0;
        if (f.number == 40) m->unk_id = (int64_t)f.value;
    }
    return NB_OK;
}

static nb_status read_normalizer(const nb_tokenizer *t, reader r, model *m)
{
    field f;
    while (r.at < r.end) {
        if (!read_field(&r, &f)) return damaged(t, "the normalizer's part");
        if (f.number == 2 && f.wire_type == 2) m->charsmap = f.bytes;
        if (f.number == 3 && f.wire_type == 0) m->dummy_prefix = f.value != 0;
    }
    return NB_OK;
}

static nb_status read_model(nb_tokenizer *t, reader r, model *m)
{
    field f;
    while (r.at < r.end) {
        if (!read_field(&r, &f)) return damaged(t, "the file");
        if (f.wire_type != 2) continue;
        if (f.number == 1) NB_TRY(read_piece(t, f.bytes, m));
        if (f.number == 2) NB_TRY(read_trainer(t, f.bytes, m));
        if (f.number == 3) NB_TRY(read_normalizer(t, f.bytes, m));
    }
    if (m->n_pieces == 0) return damaged(t, "the list of pieces");
    if (m->model_type != 1)
        return nb_fail(NB_E_DATA, "%s: SentencePiece model type %lld; nibble reads 1, Unigram",
                       t->path, (long long)m->model_type);
    if (!m->dummy_prefix)
        return nb_fail(NB_E_DATA, "%s: a model without add_dummy_prefix is not T5's", t->path);
    return NB_OK;
}

static nb_status add_special(nb_tokenizer *t, const char *content)
{
    nb_added_token token = {.special = 1};
    if (nb_tokenizer_token_id(t, content) < 0) return NB_OK;
    NB_TRY(nb_str_append(&token.content, content, strlen(content)));
    nb_status status = nb_added_tokens_add(&t->added, &t->vocab, &token);
    nb_str_fini(&token.content);
    return status;
}

/* T5's sentinels follow the pieces, the last one first; they take part with score 0. */
static nb_status add_extra_ids(nb_tokenizer *t, model *m, int n)
{
    const double zero = 0;
    for (int i = n - 1; i >= 0; i--) {
        char name[32];
        int bytes = snprintf(name, sizeof name, "<extra_id_%d>", i);
        NB_TRY(nb_str_append(&m->scores, (const char *)&zero, sizeof zero));
        NB_TRY(nb_vocab_add(&t->vocab, m->n_pieces++, name, (size_t)bytes));
        NB_TRY(add_special(t, name));
    }
    return NB_OK;
}

static nb_status build(nb_tokenizer *t, model *m, const nb_special_tokens *special)
{
    static const char *const names[NB_N_SPECIAL_TOKENS] = {[NB_TOKEN_BOS] = NULL,
                                                           [NB_TOKEN_EOS] = "</s>",
                                                           [NB_TOKEN_PAD] = "<pad>",
                                                           [NB_TOKEN_UNK] = "<unk>"};
    NB_TRY(add_extra_ids(t, m, special->extra_ids));
    nb_status status = nb_unigram_create(&t->vocab, (const double *)(void *)m->scores.data,
                                         (int32_t)m->unk_id, m->byte_fallback, &t->unigram);
    if (status != NB_OK) return nb_fail_context(status, "%s", t->path);
    t->kind = "Unigram";
    for (int i = 0; i < NB_N_SPECIAL_TOKENS; i++) {
        const char *name = special->names[i] ? special->names[i] : names[i];
        if (!name) continue;
        NB_TRY(add_special(t, name));
        t->special[i] = nb_tokenizer_token_id(t, name);
    }
    if (t->special[NB_TOKEN_EOS] < 0)
        return nb_fail(NB_E_DATA, "%s: there is no piece for the end, </s>", t->path);
    t->suffix = (nb_affix){.ids = {t->special[NB_TOKEN_EOS]}, .n = 1};
    NB_TRY(nb_tokenizer_set_pipeline(t, PIPELINE));
    size_t bytes = (size_t)(m->charsmap.end - m->charsmap.at);
    if (bytes == 0) return NB_OK;
    nb_charsmap *map;
    NB_TRY(nb_charsmap_create(t->path, (const char *)m->charsmap.at, bytes, &map));
    nb_normalizer_take_charsmap(t->normalizer, map);
    return NB_OK;
}

nb_status nb_tokenizer_read_spiece(nb_tokenizer *t, const nb_special_tokens *special)
{
    nb_buffer *file;
    NB_TRY(nb_file_map(t->path, &file));
    const unsigned char *data = nb_buffer_data(file);
    /* The defaults of the proto. */
    model m = {.model_type = 1, .dummy_prefix = 1};
    nb_status status = NB_OK;
    if (nb_buffer_bytes(file) == 0)
        status = damaged(t, "the file");
    else
        status = read_model(t, (reader){data, data + nb_buffer_bytes(file)}, &m);
    if (status == NB_OK && (m.unk_id < 0 || m.unk_id >= m.n_pieces))
        status = nb_fail(NB_E_DATA, "%s: unk_id %lld is not one of the %d pieces", t->path,
                         (long long)m.unk_id, (int)m.n_pieces);
    if (status == NB_OK) status = build(t, &m, special);
    nb_str_fini(&m.scores);
    nb_buffer_unref(file);
    return status;
}
