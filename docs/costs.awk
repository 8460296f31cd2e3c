# Count the commands of dry runs, and add what they take.
#
#     awk -v images=60000 -v loop=0.3 -v cores=2 -v jobs=2 -f docs/costs.awk docs/costs.tsv -
#
# Each line of standard input has a folder, a chapter and a command. `images` is their number, or
# empty if it is unknown, and `limit` the most of a split. `loop` is how long this machine takes for
# the loop of the table. The output has the steps of each folder, such as model=70, and a sentence.
BEGIN {
  FS = "\t"
  if (limit + 0 && (!images || images > 2 * limit)) images = 2 * limit
  if (cores > jobs) cores = jobs
}

# The table: pattern of a command, its name, seconds with few images, and with many
FNR == NR && FNR == 1 { few = $3; many = $4; next }
FNR == NR && FNR == 2 { slowness = loop / $4; next }
FNR == NR { kinds = FNR; pattern[FNR] = $1; name[FNR] = $2; low[FNR] = $3; high[FNR] = $4; next }

# Continued lines begin with a space. A command of two chapters counts in the first one.
$3 ~ /^( |make)/ || ($1, $3) in seen { next }
{
  seen[$1, $3]
  steps[$1]++
  total++
  for (i = 3; i <= kinds && $3 !~ pattern[i]; i++);
  if (i > kinds) next
  if (high[i] == "") after[name[i]]
  else add($2, seconds(i, $3))
}

function add(chapter, cost) {
  if (!(chapter in taken)) chapters[++count] = chapter
  taken[chapter] += cost
  all += cost
}

# Between the two numbers of images that were measured, or beyond them
function seconds(i, command,    growth, seeds, _) {
  growth = log(high[i] / low[i]) / log(many / few)
  seeds = match(command, /--seed [^ ]*/) ? split(substr(command, RSTART, RLENGTH), _, ",") : 1
  return seeds * low[i] * ((images ? images : many) / few) ^ growth * slowness / cores
}

END {
  for (folder in steps) printf "%s=%d ", folder, steps[folder]
  if (!total) exit
  printf "# %d steps", total
  if (!count) exit
  unit = all < 120 ? 1 : 60
  printf ", about %.0f %s on this machine", all / unit, unit == 1 ? "seconds" : "minutes"
  if (!images) printf " with %d images", many
  for (kind in after) list = list (list ? " and " : " after ") kind
  for (i = 1; count > 1 && i <= count; i++)
    list = list sprintf("%s %s %.0f", i == 1 ? ":" : ",", chapters[i], taken[chapters[i]] / unit)
  print list
}
