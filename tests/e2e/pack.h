/* For e2e_tool: several files of tensors in one. */
#ifndef NB_TESTS_E2E_PACK_H
#define NB_TESTS_E2E_PACK_H

/* arguments: OUT, PREFIX, FILE, PREFIX, FILE ...; OUT is a GGUF file if its name says so, else
 * safetensors. Ends the program with a message if it cannot. */
void pack(int n, char **arguments);

#endif
