"""gdb's view of moonfork: in gdb, `source src/moonfork.py`; doc/debugging.md says more.

  moonfork             the processes, rpcs and pools of every loop, as mf_dump shows them, but
                       from a core file or a stopped program, too
  print *process       (mf_process) state and flags by name
  print inbox          (struct inbox) the frames that wait
  print *rpc           (mf_rpc) its calls
  print *pool          (mf_pool) its workers, and what they have

It reads records through the debug information and knows the names of few members; flags are
whatever members of one bit there are."""

import gdb
import gdb.printing

LIMIT = 200  # elements of one list, so that a broken one ends


def entries(head, type_name, member):
    """The owners of the links of a struct list."""
    owner = gdb.lookup_type(type_name)
    offset = next(f.bitpos // 8 for f in owner.fields() if f.name == member)
    at, char = head["next"], gdb.lookup_type("char").pointer()
    for _ in range(LIMIT):
        if at == head.address:
            return
        yield (at.cast(char) - offset).cast(owner.pointer()).dereference()
        at = at["next"]


def flags(value):
    """The names of the members of one bit that are set."""
    return [f.name for f in value.type.strip_typedefs().fields()
            if getattr(f, "bitsize", 0) == 1 and int(value[f.name])]


def process_number(p):
    return int(p["id"]) & 0x7FFFFFFF  # as mf_dump: they count from 1


def text(pointer):
    return "" if int(pointer) == 0 else pointer.string(errors="replace")


def process_line(p):
    line = "process %d pid %d %s" % (process_number(p), int(p["pid"]), p["state"])
    if int(p["name"]):
        line += " %r" % text(p["name"])
    if int(p["source"]):
        line += ", of process %d" % process_number(p["source"].dereference())
    waits = int(p["nsent"]) - int(p["ndone"])
    if waits:
        line += ", %d commands not confirmed" % waits
    return line + ", " + (" ".join(flags(p)) or "no flags")


def frames(inbox):
    """(type, length, descriptors, id, whole) of what is not consumed."""
    data = inbox["bytes"]
    at, end = int(data["head"]) + int(inbox["frame_left"]), int(data["tail"])
    memory = gdb.selected_inferior()
    while at + 16 <= end:
        head = bytes(memory.read_memory(int(data["data"]) + at, 16))
        length = int.from_bytes(head[0:4], "little")
        at += 16 + length
        yield head[4], length, head[5], int.from_bytes(head[8:16], "little"), at <= end


def command_name(number):
    for enum in ("enum command_type", "enum proto_command"):
        try:
            for field in gdb.lookup_type(enum).fields():
                if field.enumval == number:
                    return field.name
        except gdb.error:
            continue
    return "type %d" % number


class Printer:
    def __init__(self, value):
        self.value = value

    def to_string(self):
        return self.head(self.value)


class Process(Printer):
    head = staticmethod(process_line)


class Inbox(Printer):
    @staticmethod
    def head(inbox):
        data = inbox["bytes"]
        return "inbox of %d bytes, %d descriptors" % (
            int(data["tail"]) - int(data["head"]), int(inbox["fd_tail"]) - int(inbox["fd_head"]))

    def children(self):
        for i, (kind, length, nfds, number, whole) in enumerate(frames(self.value)):
            yield str(i), "%s id %d, %d bytes, %d descriptors%s" % (
                command_name(kind), number, length, nfds, "" if whole else ", not whole")


class Rpc(Printer):
    @staticmethod
    def head(rpc):
        return "rpc in process %d, %s, %d calls wait, %s" % (
            process_number(rpc["process"].dereference()), rpc["far"], int(rpc["own_calls"]["nwaiting"]),
            " ".join(flags(rpc)) or "no flags")

    def children(self):
        for where in ("flying", "parked"):
            for call in entries(self.value[where], "struct call", "link"):
                yield "call %d" % int(call["id"]), "%s, timeout %d ms" % (
                    where, int(call["timeout_ms"]))


class Pool(Printer):
    @staticmethod
    def head(pool):
        return "pool of %r, %d calls queued, %d running, %s" % (
            text(pool["function"]), int(pool["nqueued"]), int(pool["nworking"]),
            " ".join(flags(pool)) or "no flags")

    def children(self):
        for i, worker in enumerate(entries(self.value["workers"], "struct worker", "link")):
            yield "worker %d" % i, "process %d, %d calls, %s" % (
                process_number(worker["rpc"]["process"].dereference()), int(worker["ncalls"]),
                " ".join(flags(worker)) or "no flags")


class Dump(gdb.Command):
    """moonfork: the processes, rpcs and pools of every loop."""

    def __init__(self):
        super().__init__("moonfork", gdb.COMMAND_DATA)

    def invoke(self, argument, from_tty):
        symbol = gdb.lookup_static_symbol("contexts")
        if symbol is None:
            raise gdb.GdbError("no moonfork here: is the library loaded, with debug information?")
        for context in entries(symbol.value(), "struct context", "link"):
            print("loop %s: %d with work under way" % (context["loop"], int(context["nbusy"])))
            registry = context.address.cast(gdb.lookup_type("struct registry").pointer())
            for p in entries(registry["processes"], "struct mf_process", "link"):
                print("  " + process_line(p))
                for line in Inbox(p["chan"]["in"]).children():
                    print("    frame " + line[1])
            for r in entries(context["dump_entries"], "struct dump_entry", "link"):
                print("  " + self.resident(r))

    @staticmethod
    def resident(r):
        """By the function that prints it in mf_dump: an rpc or a pool."""
        is_pool = "pool_on_dump" in str(r["dump"])
        name, printer = ("struct mf_pool", Pool) if is_pool else ("struct mf_rpc", Rpc)
        owner = gdb.lookup_type(name)
        offset = next(f.bitpos // 8 for f in owner.fields() if f.name == "dump_entry")
        char = gdb.lookup_type("char").pointer()
        value = (r.address.cast(char) - offset).cast(owner.pointer()).dereference()
        shown = printer(value)
        return "\n    ".join([shown.to_string()] + ["%s: %s" % c for c in shown.children()])


def register():
    printers = gdb.printing.RegexpCollectionPrettyPrinter("moonfork")
    for name, printer in (("mf_process", Process), ("inbox", Inbox), ("mf_rpc", Rpc),
                          ("mf_pool", Pool)):
        printers.add_printer(name, "^%s$" % name, printer)
    gdb.printing.register_pretty_printer(gdb.current_objfile(), printers, replace=True)
    Dump()


register()
