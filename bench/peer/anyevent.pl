# The contestant AnyEvent::Fork, with EV. Arguments and output: ../bench.h.
#
#   perl anyevent.pl spawn|first INFLIGHT HEAP_MIB
#   perl anyevent.pl exec COUNT        new_exec to the first answer
#   perl anyevent.pl memory HEAP_MIB   private bytes of an idle process
#
# The template's memory is a Perl array of small arrays of about as many bytes. A process has
# ended with the end of its socket: the module tells of no exits. The function leaves by _exit,
# as a user with a large template would: else Perl would take every structure apart first.
use strict;
use warnings;
use EV;
use AnyEvent;
use AnyEvent::Fork;
use Time::HiRes 'time';

my ($what, $number, $heap) = (@ARGV, 0, 0);

my $EXEC_CODE = 'sub first { my ($fh) = @_; syswrite $fh, "x" }';
my $CODE = <<'PERL';
use POSIX ();
sub nothing { POSIX::_exit(0); }
sub first { my ($fh) = @_; syswrite $fh, "x"; POSIX::_exit(0); }
sub size { my ($fh) = @_; my $n = 0;
  open my $f, "<", "/proc/self/smaps_rollup";
  /^Private_\w+:\s+(\d+)/ and $n += $1 * 1024 while <$f>;
  syswrite $fh, "$n\n"; }
sub fill { my ($mib) = @_; our @big = map { [$_, $_] } 1 .. $mib * 1048576 / 184; }
PERL

sub template {
  my $t = AnyEvent::Fork->new_exec;
  $t->eval($CODE);
  $t->eval('fill $_[0]', $heap) if $heap;
  return $t;
}

# Runs one function in a fresh process; calls back with the first bytes, then with its end.
sub ask {
  my ($t, $name, $first, $end) = @_;
  $t->run($name, sub {
    my ($fh) = @_ or die "no process";
    my $w; $w = EV::io $fh, EV::READ, sub {
      my $n = sysread $fh, my $buf, 64;
      if ($n) { $first->($buf); $first = sub { }; return; }
      undef $w;
      close $fh;
      $end->();
    };
  });
}

sub slice {
  my ($t, $n, $inflight) = @_;
  my ($started, $ended, @us) = (0, 0);
  my $function = $what eq 'first' ? 'main::first' : 'main::nothing';
  my $done = AE::cv;
  my $start; $start = sub {
    return if $started == $n;
    $started++;
    my $begin = time;
    ask($t->fork, $function, sub { push @us, 1e6 * (time - $begin) }, sub {
      ++$ended == $n ? $done->send : $start->();
    });
  };
  $start->() for 1 .. $inflight;
  $done->recv;
  return @us;
}

if ($what eq 'spawn' || $what eq 'first') {
  my $t = template;
  while (my $n = <STDIN>) {
    my $begin = time;
    my @us = slice($t, $n, $number || 1);
    syswrite STDOUT, join(' ', map { sprintf '%.1f', $_ } 1e6 * (time - $begin), @us) . "\n";
  }
}
elsif ($what eq 'exec') {
  for my $i (-5 .. $number - 1) {
    my $t0 = time;
    my $first;
    my $cv = AE::cv;
    my $t = AnyEvent::Fork->new_exec->eval($EXEC_CODE);
    ask($t, 'main::first', sub { $first = time }, $cv);
    $cv->recv;
    printf "%.1f\n", 1e6 * ($first - $t0) if $i >= 0;
  }
}
else {
  $heap = $number;
  my $t = template;
  my $cv = AE::cv;
  ask($t->fork, 'main::size', sub { print "idle $_[0]" }, $cv);
  $cv->recv;
}
