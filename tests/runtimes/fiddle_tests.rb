# Runs the tests of Fiddle that Ruby's source has, and then looks at where its closures come from.
#
# Prints `ok NAME` or `FAILED NAME` for each, and `N passed, N failed` last.

require "optparse"

# First address, address after the last, permissions and file of each.
def mappings
  File.readlines("/proc/self/maps", chomp: true).map do |line|
    addresses, permissions, _, _, _, file = line.split(" ", 6)
    [*addresses.split("-").map(&:hex), permissions, file.to_s]
  end
end

# Executable memory that is of no file, or of one without a name, which can be written elsewhere.
def made
  mappings.filter_map do |from, _, permissions, file|
    is_made = !file.start_with?("/") || file.start_with?("/memfd:") || file.end_with?(" (deleted)")
    [from.to_s(16), file] if permissions.include?("x") && is_made
  end
end

# What the kernel or an emulator has put there.
before = made

require "fiddle"

$passed = $failed = 0

def check(name, holds)
  puts "#{holds ? "ok" : "FAILED"} #{name}"
  holds ? $passed += 1 : $failed += 1
end

$stdout.sync = true
options = {}
OptionParser.new do |parser|
  parser.on("--library FILE", "where the code of closures must lie")
  parser.on("--refused", "new executable memory must be refused")
  parser.on("--source FOLDER", "Ruby's own; else without the tests of Fiddle")
end.parse!(into: options)

if (source = options[:source])
  # It has its test framework with it.
  $LOAD_PATH.unshift("#{source}/tool/lib", "#{source}/test")
  require "test/unit"

  Test::Unit::Runner.prepend(Module.new do
    def record(suite, method, assertions, time, error)
      $skipped = $skipped.to_i + 1 if error.is_a?(Test::Unit::PendedError)
      # What the tests say stands in an unfinished line.
      puts
      puts error.full_message(highlight: false) if error
      check("#{suite}##{method}", error.nil?) unless error.is_a?(Test::Unit::PendedError)
      super
    end
  end)
  Test::Unit::AutoRunner.run(true, "#{source}/test", ["#{source}/test/fiddle"])
  puts "#{$skipped.to_i} skipped"
  check("Fiddle has tests", $passed > 0)
end

increment = Fiddle::Closure::BlockCaller.new(Fiddle::TYPE_INT, [Fiddle::TYPE_INT]) { |number| number + 1 }
code = increment.to_i & ((1 << (8 * Fiddle::SIZEOF_VOIDP)) - 1) # it may be negative
found = mappings.filter_map { |from, to, _, file| file if (from...to).cover?(code) }
puts "a closure's code lies in #{found}"
called = Fiddle::Function.new(increment, [Fiddle::TYPE_INT], Fiddle::TYPE_INT).call(41)
check("closures are those of the library", found == [File.realpath(options.fetch(:library))] && called == 42)
added = made - before
puts "executable memory that was made: #{added}"
check("no code is made", added.empty?)
if options[:refused]
  pr_get_mdwe = 66
  prctl = Fiddle::Function.new(Fiddle.dlopen(nil)["prctl"], [Fiddle::TYPE_LONG] * 5, Fiddle::TYPE_INT)
  check("new executable memory is refused", prctl.call(pr_get_mdwe, 0, 0, 0, 0) == 1)
end

puts "#{$passed} passed, #{$failed} failed"
exit!($failed.zero?)
