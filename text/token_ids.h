/*
 * The list of ids that encoding fills (its struct is public, in tokenizer.h).
 */
#ifndef NB_TEXT_TOKEN_IDS_H
#define NB_TEXT_TOKEN_IDS_H

#include "text/tokenizer.h"

nb_status nb_token_ids_push(nb_token_ids *ids, int32_t id) NB_MUST_CHECK;

/* Makes room for `more` ids at the front and moves the rest there. */
nb_status nb_token_ids_shift(nb_token_ids *ids, int64_t more) NB_MUST_CHECK;

#endif
