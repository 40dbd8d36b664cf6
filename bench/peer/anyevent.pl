# The contestant AnyEvent::Fork, with EV. Arguments and output: bench.h.
#
#   perl anyevent.pl life COUNT INFLIGHT HEAP_MIB
#   perl anyevent.pl exec COUNT        new_exec to the first answer
#   perl anyevent.pl memory HEAP_MIB   private octets of an idle process
#
# The template's memory is a Perl array of small arrays of about as many octets. A life ends
# with the end of the socket: the module tells of no exits. The function leaves by _exit, as a
# user with a large template would: else Perl would take every structure apart first.
use strict;
use warnings;
use EV;
use AnyEvent;
use AnyEvent::Fork;
use Time::HiRes 'time';

my ($what, $count, $inflight, $heap) = (@ARGV, (undef) x 4);
$inflight ||= 1;
$heap     ||= 0;

my $EXEC_CODE = 'sub octet { my ($fh) = @_; syswrite $fh, "x" }';
my $CODE = <<'PERL';
use POSIX ();
sub octet { my ($fh) = @_; syswrite $fh, "x"; POSIX::_exit(0); }
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

# Runs one function in a fresh process; calls back with the first octets, then with its end.
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

sub wait_for { my ($t) = @_; my $cv = AE::cv; ask($t, 'main::octet', sub { }, $cv); $cv->recv }

if ($what eq 'life') {
  my $t = template;
  my $warmup = $count / 5 > 20 ? int $count / 5 : 20;
  my $all    = $warmup + $count;
  my ($started, $ended, $t0, @us) = (0, 0);
  my $done = AE::cv;
  wait_for($t->fork);
  my $start; $start = sub {
    return if $started == $all;
    $started++;
    my $begin = time;
    my $first;
    ask($t->fork, 'main::octet', sub { $first = time }, sub {
      push @us, 1e6 * ($first - $begin) if $ended >= $warmup;
      $ended++;
      $t0 = time if $ended == $warmup;
      $ended == $all ? $done->send : $start->();
    });
  };
  $start->() for 1 .. $inflight;
  $done->recv;
  my $total = time - $t0;
  printf "%.1f\n", $_ for @us;
  printf "total %.6f\n", $total;
}
elsif ($what eq 'exec') {
  for my $i (-5 .. $count - 1) {
    my $t0 = time;
    my $first;
    my $cv = AE::cv;
    my $t = AnyEvent::Fork->new_exec->eval($EXEC_CODE);
    ask($t, 'main::octet', sub { $first = time }, $cv);
    $cv->recv;
    printf "%.1f\n", 1e6 * ($first - $t0) if $i >= 0;
  }
}
else {
  $heap = $count || 0;
  my $t = template;
  my $cv = AE::cv;
  ask($t->fork, 'main::size', sub { print "idle $_[0]" }, $cv);
  $cv->recv;
}
