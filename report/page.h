// Results folders as one page to look at: a single HTML file that needs no network.
//
// The page is made of files in report/page/ and of a chart library that the build takes from its package; results go into it as
// one JSON text. Every name in it is data: nothing from a results folder is ever HTML.
#pragma once

#include <string>
#include <vector>

#include "report/folder.h"
#include "sim/fields.h"

namespace poolsim {

// What the page shows, of one folder or of several side by side:
//
//   sources[]           a folder: name, kind (run, compare, plan, tune, sweep, reproduce), manifest, scenario, profile (of
//                       its prices, where the executable knows it) and what its kind has
//   .runs[]             label, summary, and tables where the folder holds them, as columns:
//     models            models.csv
//     windows           windows.csv, neighbours merged until there are no more than 1,440; service_attainment only where the
//                       file has it
//     distributions     by quantity: upper edges and counts, neighbours merged
//     model_windows     windows, window_s; arrived and on_time, a byte each for model x window, in base64: arrivals in 1/255 of
//     the
//                       model's most in a window (`most`); on-time tokens in 1/200 of the tokens, 255 where there were none
//     fleet             windows, window_s; rows (pool, first_instance, instances, gpus); states, four bytes for row x window in
//                       base64, prefill, decode, switch and KV copy in 1/255 of the GPU time; cell_model, row x window, an index
//                       into `models` or -1
//   .missing[]          files that such a folder holds today and this one does not
//   .plan .savings .tune .claims .figures    as their files have them; figures' images in base64
//   .sweep              design, replications; a value for each point, in the order of sweep.csv, of:
//     varied[]          name, values (numbers where all are, else texts)
//     policy, status, reason, fingerprint
//     metrics{}         by the key of summary.json, of those that differ from point to point: mean, and with several replications
//                       low and high; null where the point could not be run
//     same{}            the value that all points have, of the other keys
//   policies{}          by the name that runs, plans and sweeps give: oracle (it is told the future), owns_fleet (it
//                       brings its own GPUs)
//
// Throws InputError for a folder that is incomplete, of a later version, or not one of ours, with the file at fault.
Json ReportData(const std::vector<ReportFolder>& folders);

// Throws InputError when this executable was built without the chart library.
std::string ReportPage(const Json& data);
// Whether a file is such a page, by its first bytes; no when it cannot be read.
bool IsReportPage(const std::string& file);
// Why it was; empty when it was not.
std::string WhyNoReport();

}  // namespace poolsim
