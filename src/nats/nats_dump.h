/* Nodes and far pools in the text of mf_dump and fork.dump. Only reads: it changes
 * nothing, allocates nothing and can be called from a debugger. Runs in the parent. */
#ifndef NATS_NATS_DUMP_H
#define NATS_NATS_DUMP_H

#include "nats/listed.h"
#include <moonfork/nats.h>
#include <stdio.h>

struct nats_listed *far_listed(mf_far *far);
struct nats_listed *node_listed(mf_node *node);

void far_dump(const mf_far *far, FILE *out);
void node_dump(const mf_node *node, FILE *out);

#endif
