# What happens second by second in a switchover and in a power cut; `make pictures` generates the SVG.
# The figures are those of docs/reliability.md, Debian 13: change both together. Bars are in seconds.

switchover = 1.49
power_cut = 21.79
ttl = 20

set terminal svg size 900,720 font "Helvetica,Arial,sans-serif,14" background "white" enhanced
set encoding utf8
unset key
unset ytics
unset border
set tmargin 1.5
set bmargin 3
set lmargin 15
set rmargin 3
set xtics nomirror out scale 0.6 textcolor "#3a4754"
set multiplot

green = "#4f8a55"
blue = "#2f6fb5"
red = "#c8452f"
grey = "#c3ccd4"
pale = "#eaf3ea"
amber = "#ffe08a"
purple = "#d9c9ea"

# ---- switchover

set origin 0, 0.55
set size 1, 0.42
set label "{/:Bold Switchover}: no answer for ".sprintf("%.2f", switchover)." s" at screen 0.03, 0.965 font ",17"
a = -0.3
b = 2.0
set xrange [a:b]
set yrange [0:4]
set xtics 0, 0.5, 2 format "%.1f s"
step = switchover / 5

set object rect from a, 3.15 to 0, 3.85 fc rgb green fs solid noborder
set object rect from 0, 3.15 to switchover, 3.85 fc rgb red fs solid noborder
set object rect from switchover, 3.15 to b, 3.85 fc rgb green fs solid noborder
set label "client" at graph -0.01, first 3.5 right
set label "writes" at a / 2, 3.5 center textcolor "white"
set label "no answer" at switchover / 2, 3.5 center textcolor "white"
set label "writes" at (switchover + b) / 2, 3.5 center textcolor "white"

set object rect from a, 2.15 to 0, 2.85 fc rgb amber fs solid noborder
set object rect from switchover, 2.15 to b, 2.85 fc rgb amber fs solid noborder
set label "virtual IP" at graph -0.01, first 2.5 right
set label "on pg1" at a / 2, 2.5 center
set label "on no member" at switchover / 2, 2.5 center textcolor "#3a4754"
set label "on pg2" at (switchover + b) / 2, 2.5 center

set object rect from a, 1.15 to 0, 1.85 fc rgb blue fs solid noborder
set label "pg1" at graph -0.01, first 1.5 right
set label "primary" at a / 2, 1.5 center textcolor "white"
set object rect from 0, 1.15 to step, 1.85 fc rgb pale fs solid border rgb grey
set object rect from step, 1.15 to 2 * step, 1.85 fc rgb pale fs solid border rgb grey
set object rect from 2 * step, 1.15 to 3 * step, 1.85 fc rgb pale fs solid border rgb grey
set label "① dnscp releases\nthe address" at step / 2, 1.62 center font ",11"
set label "② PostgreSQL\nshuts down" at 1.5 * step, 1.62 center font ",11"
set label "③ Patroni releases\nthe leader lock" at 2.5 * step, 1.62 center font ",10.5"
set object rect from 3 * step, 1.15 to b, 1.85 fc rgb grey fs solid noborder
set label "replica" at (3 * step + b) / 2, 1.5 center

set object rect from a, 0.15 to 3 * step, 0.85 fc rgb grey fs solid noborder
set label "pg2" at graph -0.01, first 0.5 right
set label "replica" at (a + 3 * step) / 2, 0.5 center
set object rect from 3 * step, 0.15 to 4 * step, 0.85 fc rgb pale fs solid border rgb grey
set object rect from 4 * step, 0.15 to switchover, 0.85 fc rgb pale fs solid border rgb grey
set label "④ Patroni acquires\nthe lock, promotes" at 3.5 * step, 0.62 center font ",10.5"
set label "⑤ dnscp acquires\nthe address" at 4.5 * step, 0.62 center font ",11"
set object rect from switchover, 0.15 to b, 0.85 fc rgb blue fs solid noborder
set label "primary" at (switchover + b) / 2, 0.5 center textcolor "white"

set label "①–⑤ show the order. Only the whole gap was measured, not each step." at graph 1, graph -0.28 right font ",11" textcolor "#3a4754"
plot NaN
unset object
unset label

# ---- power cut

set origin 0, 0
set size 1, 0.5
set label "{/:Bold Power cut of the primary}: no answer for ".sprintf("%.2f", power_cut)." s" at screen 0.03, 0.48 font ",17"
a = -2
b = 26
set xrange [a:b]
set yrange [0:5]
set xtics 0, 5, 25 format "%.0f s"

set object rect from a, 4.15 to 0, 4.85 fc rgb green fs solid noborder
set object rect from 0, 4.15 to power_cut, 4.85 fc rgb red fs solid noborder
set object rect from power_cut, 4.15 to b, 4.85 fc rgb green fs solid noborder
set label "client" at graph -0.01, first 4.5 right
set label "writes" at a / 2, 4.5 center textcolor "white" font ",12"
set label "no answer" at ttl / 2, 4.5 center textcolor "white"
set label "writes" at (power_cut + b) / 2, 4.5 center textcolor "white"

set object rect from a, 3.15 to 0, 3.85 fc rgb amber fs solid noborder
set object rect from power_cut, 3.15 to b, 3.85 fc rgb amber fs solid noborder
set label "virtual IP" at graph -0.01, first 3.5 right
set label "on pg1" at a / 2, 3.5 center font ",12"
set label "on no member" at ttl / 2, 3.5 center textcolor "#3a4754"
set label "on pg2" at (power_cut + b) / 2, 3.5 center

set object rect from a, 2.15 to ttl, 2.85 fc rgb purple fs solid noborder
set object rect from ttl, 2.15 to b, 2.85 fc rgb pale fs solid border rgb grey
set label "leader lock" at graph -0.01, first 2.5 right
set label "of pg1, until TTL after its last renewal" at ttl / 2, 2.5 center
set label "pg2 acquires it" at (ttl + b) / 2, 2.5 center

set object rect from a, 1.15 to 0, 1.85 fc rgb blue fs solid noborder
set object rect from 0, 1.15 to b, 1.85 fc rgb "#3a4754" fs solid noborder
set label "pg1" at graph -0.01, first 1.5 right
set label "primary" at a / 2, 1.5 center textcolor "white" font ",12"
set label "no power" at ttl / 2, 1.5 center textcolor "white"

set object rect from a, 0.15 to ttl, 0.85 fc rgb grey fs solid noborder
set object rect from ttl, 0.15 to power_cut, 0.85 fc rgb pale fs solid border rgb grey
set object rect from power_cut, 0.15 to b, 0.85 fc rgb blue fs solid noborder
set label "pg2" at graph -0.01, first 0.5 right
set label "replica" at ttl / 2, 0.5 center
set label "primary" at (power_cut + b) / 2, 0.5 center textcolor "white"

set arrow from ttl, 0 to ttl, 5 nohead dashtype 2 lc rgb "#3a4754" front
set label "TTL=20" at ttl, 5.15 center font ",12" textcolor "#3a4754"
set label "Settings: TTL=20 LOOP\\_WAIT=2 VIP\\_LEASE=6. One run on Debian 13; figures from docs/reliability.md." at graph 1, graph -0.175 right font ",11" textcolor "#3a4754"
plot NaN
unset multiplot
