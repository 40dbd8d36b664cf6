-- Defects that the suite has to notice: each is one small edit of one file, of a kind that
-- people make. run.lua beside this file plants them one at a time (./dev planted).
--
--   name     unique, says what goes wrong
--   file     in the tree
--   find     text that must be there exactly once
--   replace  the defect
--   tests    what should notice: "unit/test_NAME" (or {that, arguments}), a file of stories,
--            or {that, part of a story's name}
--
-- Where find is not there any more, the code has moved on: write the defect anew, or drop it
-- when what it breaks is gone.
return {
  {name = "rpc: nothing is tried again after ETOOMANYREFS", file = "src/parent/rpc.c",
    find = "      deadline_set(rpc->home, &rpc->retry, STALL_RETRY_MS);\n      break;",
    replace = "      break;",
    tests = {"unit/test_rpc"}},
  {name = "rpc: ENOMEM in sending counts as a peer that is gone", file = "src/parent/rpc.c",
    find = "} else if (sent == -ETOOMANYREFS || sent == -ENOMEM) {\n      deadline_set(rpc->home",
    replace = "} else if (sent == -ETOOMANYREFS) {\n      deadline_set(rpc->home",
    tests = {"unit/test_rpc"}},
  {name = "clone: the reseed comes after the on_fork hooks", file = "src/template/clone.c",
    find = [[
  if (script_reseed(s) < 0)
    server_fail(s);
  else if (clone_apply_options(s, &s->birth.options, &stdio) == 0) /* 5. */
    run_on_fork(s);                                                /* 7. */
]], replace = [[
  if (clone_apply_options(s, &s->birth.options, &stdio) == 0)
    run_on_fork(s);
  if (script_reseed(s) < 0)
    server_fail(s);
]], tests = {{"proc/clone_lib.lua", "on_fork hooks see"}}},
  {name = "rpc server: an asynchronous event is lost behind 64 KiB",
    file = "src/template/rpc_server.c",
    find = "  rpc_link_put(&s->link, RPC_EVENT, 0, &s->event_out, &s->event_fds);",
    replace = "  if (!(s->flags & RPC_ASYNC) || s->link.out.nbytes <= RPC_BATCH_OCTETS)\n" ..
      "    rpc_link_put(&s->link, RPC_EVENT, 0, &s->event_out, &s->event_fds);",
    tests = {{"proc/rpc_more.lua", "events all arrive"}}},
  {name = "binding: a process that is refused leaves its reference",
    file = "src/bind/process.c",
    find = "    *box = NULL;\n    luaL_unref(L, LUA_REGISTRYINDEX, p->exit.trash.ref);\n",
    replace = "    *box = NULL;\n",
    tests = {"fault/f_memory.lua"}},
  {name = "binding: a string that can't be lent leaves its reference",
    file = "src/bind/process.c",
    find = "  if (!loan) {\n    luaL_unref(L, LUA_REGISTRYINDEX, ref);\n",
    replace = "  if (!loan) {\n",
    tests = {"fault/f_memory.lua"}},
}
